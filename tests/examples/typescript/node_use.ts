import { readFile } from "node:fs/promises";
import { Client, rasterOfRle, type Raster } from "edgesam-client";

export async function segmentFile(url: string, path: string, signal: AbortSignal): Promise<Raster> {
  const client = new Client(url);
  const { image_id } = await client.embed(await readFile(path), { signal });
  const { results } = await client.segment(image_id, [{ points: [{ x: 270, y: 210 }] }], { signal });
  const { rle } = results[0].masks[0];
  if (!rle) throw new Error("The answer has no run lengths.");
  return rasterOfRle(rle);
}
