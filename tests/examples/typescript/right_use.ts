import {
  Client,
  Problem,
  maskOfEverything,
  type Answer,
  type EverythingEvent,
  type Mask,
  type Progress,
  type Prompt,
} from "edgesam-client";
import { drawRaster, rasterOfRle } from "edgesam-client/masks";

export async function segment(url: string, file: Blob, canvas: HTMLCanvasElement): Promise<Mask | null> {
  const onProgress = ({ stage, done }: Progress): void => console.log(`${stage} ${Math.round(100 * done)} %`);
  const client = new Client(url, { apiKey: "a-key", timeoutMs: 5000 });
  const prompt: Prompt = { points: [{ x: 270, y: 210, label: 1 }], box: [169, 85, 446, 360] };
  try {
    const { image_hash, cached } = await client.embed(file, { onProgress });
    console.log(cached ?? "computed");
    const answer: Answer = await client.segment(image_hash, [prompt], { multimask: 3, format: "rle" });
    const mask = answer.results[0].masks[0];
    if (mask.rle) drawRaster(canvas, rasterOfRle(mask.rle), [255, 111, 31]);
    return mask;
  } catch (error) {
    if (error instanceof Problem) console.error(error.code, error.type, error.document.errors, error.retryAfterS ?? 0);
    return null;
  }
}

export async function everything(url: string, file: Blob): Promise<number[]> {
  const client = new Client(url);
  const { image_id, region } = await client.embed(file, { region: [0, 0, 640, 480] });
  const done: number[] = [region ? region[2] : 0];
  const onEvent = (event: EverythingEvent): void => {
    if (event.event === "progress") done.push(event.done / event.prompts);
  };
  const { masks } = await client.segmentEverything(image_id, { pointsPerSide: 16, fast: true, maxMasks: 50, onEvent });
  return [...done, ...masks.map((mask) => maskOfEverything(mask).area)];
}
