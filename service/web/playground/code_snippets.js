/**
 * Programs that send the request of a click: for a shell, for Python and for JavaScript. An API key is never written: the
 * programs read it from the environment, or leave a place for it.
 *
 * @typedef {object} CodeRequest
 * @property {string} url address of the service
 * @property {string} imageId
 * @property {string} fileName
 * @property {{prompts: import("../client/edgesam.js").Prompt[], model?: string, multimask: string, cleanup: string,
 *   granularity?: string}} body request body of /segment, without the hash
 * @property {boolean} hasKey
 */

/** The programs by the names of their tabs. @type {Record<string, (request: CodeRequest) => string>} */
export const SNIPPETS = { curl, python, javascript };

/** The requests as curl commands. `$EDGESAM_KEY` stands for the API key. @param {CodeRequest} request */
export function curl({ url, imageId, fileName, body, hasKey }) {
  const key = hasKey ? ` -H "X-API-Key: $EDGESAM_KEY"` : "";
  const query = queryOf({ ...(body.model && { model: body.model }), ...readingOf(imageId) });
  const embed = `curl -s ${quoted(`${url}embed${query}`)}${key} -F ${quoted(`image=@"${fileName.replaceAll('"', "")}"`)}`;
  // A mask's logits are too long for a command line. The prompt has all points, so its mask is nearly the same without.
  const prompts = body.prompts.map(({ mask_logits: _, ...prompt }) => prompt);
  const json = JSON.stringify({ image_hash: imageId, ...body, prompts });
  const header = quoted(`X-Image-Hash: ${imageId.split("~")[0]}`); // by which a load balancer chooses the replica
  return `${embed}\ncurl -s ${quoted(`${url}segment`)}${key} -H ${header} -d ${quoted(json)}\n`;
}

/** @param {CodeRequest} request */
export function python({ url, imageId, fileName, body, hasKey }) {
  const [prompt] = lasting(body.prompts);
  const reading = readingOf(imageId);
  const { levels, bands, region } = reading;
  const lines = ["# Install the client: pip install -e '.[client]' in a clone of the service's source", "from service.client import Client"];
  if (hasKey) lines.unshift("import os", "");
  const hasMask = typeof prompt.mask === "object";
  if (hasMask) lines.push("from service.client.rle import decode_rle");
  const clientArguments = [literal(url.replace(/\/$/, "")), hasKey && `api_key=os.environ["EDGESAM_KEY"]`, body.model && `model=${literal(body.model)}`];
  const embedArguments = [
    literal(fileName),
    levels && `levels=${literal(levels)}`,
    bands && `bands=(${bands.replaceAll(",", ", ")})`,
  ];
  const segmentArguments = ["image", ...pythonPrompt(prompt), `multimask=${literal(body.multimask)}`, `cleanup=${literal(body.cleanup)}`];
  return [
    ...lines,
    "",
    `with Client(${listed(clientArguments)}) as client:`,
    `    image = client.embed(${listed(embedArguments)})  # image_id ${imageId}`,
    ...(region ? [`    image = client.region(image, (${region.replaceAll(",", ", ")}))`] : []),
    `    answer = client.segment(${listed(segmentArguments)})`,
    "    for mask in answer.masks:",
    "        print(mask.score, mask.area, mask.box, mask.pixels.shape)",
    "",
  ].join("\n");
}

/** @param {CodeRequest} request */
export function javascript({ url, imageId, fileName, body, hasKey }) {
  const prompts = lasting(body.prompts);
  const { model, prompts: _, ...options } = body;
  const { levels, bands, region } = readingOf(imageId);
  const reading = {
    ...(levels && { levels }),
    ...(bands && { bands: bands.split(",").map(Number) }),
    ...(region && { region: region.split(",").map(Number) }),
  };
  const clientOptions = [hasKey && `apiKey: ""`, model && `model: ${JSON.stringify(model)}`].filter(Boolean);
  const embedOptions = Object.keys(reading).length > 0 ? `, ${JSON.stringify(reading)}` : "";
  return [
    `// In a page: <script type="module">. A page of another origin needs EDGESAM_CORS_ORIGINS.`,
    `import { Client, rasterOfRle } from ${JSON.stringify(`${url}web/edgesam.js`)};`,
    "",
    `const client = new Client(${JSON.stringify(url)}${clientOptions.length > 0 ? `, { ${clientOptions.join(", ")} }` : ""});${hasKey ? " // write your API key here" : ""}`,
    `const file = await (await fetch(${JSON.stringify(encodeURI(fileName))})).blob(); // or a File that somebody chose`,
    `const { image_id: imageId } = await client.embed(file${embedOptions}); // ${imageId}`,
    `const prompts = ${JSON.stringify(prompts)};`,
    `const { results } = await client.segment(imageId, prompts, ${JSON.stringify(options)});`,
    "for (const { score, area, box, rle } of results[0].masks) console.log(score, area, box, rasterOfRle(rle));",
    "",
  ].join("\n");
}

/** Prompts for a program that is run later: the service keeps masks for refinement for some minutes only. */
function lasting(prompts) {
  return prompts.map(({ mask_logits: _, mask_id: __, ...prompt }) => prompt);
}

function pythonPrompt({ points = [], box, mask }) {
  const pair = ({ x, y }) => `(${x}, ${y})`;
  const labels = points.map(({ label = 1 }) => label);
  return [
    points.length > 0 && `points=[${points.map(pair).join(", ")}]`,
    labels.includes(0) && `labels=[${labels.join(", ")}]`,
    box && `box=(${box.join(", ")})`,
    typeof mask === "object" && `mask=decode_rle(${literal(mask.counts)}, ${mask.size.join(", ")})`,
  ];
}

/** How the service reads the file, from an image_id: levels, bands and region where they were given. @param {string} imageId @returns {Record<string, string>} */
function readingOf(imageId) {
  const [, ...variants] = imageId.split("~");
  return Object.fromEntries(variants.map((variant) => variant.split("=")));
}

function queryOf(parameters) {
  const text = Object.entries(parameters).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  return text.length > 0 ? `?${text.join("&")}` : "";
}

function listed(values) {
  return values.filter(Boolean).join(", ");
}

/** A text in Python. JSON's escapes mean the same there. */
function literal(text) {
  return JSON.stringify(text);
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
