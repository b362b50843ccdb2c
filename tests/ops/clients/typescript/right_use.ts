import { Client, Problem, type Answer, type Mask, type Progress, type Prompt } from "edgesam-client";
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
    if (error instanceof Problem) console.error(error.code, error.retryAfterS ?? 0);
    return null;
  }
}
