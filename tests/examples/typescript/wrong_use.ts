import { Client, rasterOfRle, type Mask } from "edgesam-client";

const client = new Client("http://127.0.0.1:8000/", { key: "a-key" }); // wrong: the option is apiKey
const { image_hash } = await client.embed("photo.jpg"); // wrong: a Blob or bytes are needed
const answer = await client.segment(image_hash, [{ points: [[270, 210]] }]); // wrong: a point is {x, y}
await client.segment(image_hash, [], { multimask: 2 }); // wrong: 1, 3, 4 or "auto"
const mask: Mask = answer.results[0].masks; // wrong: this is a list of masks
rasterOfRle(answer.results[0].masks[0].rle); // wrong: other formats have no run lengths
await client.segmentEverything(image_hash, { points_per_side: 16 }); // wrong: the option is pointsPerSide
await client.embed(new Blob(), { region: [0, 0, 640] }); // wrong: a region has four numbers
