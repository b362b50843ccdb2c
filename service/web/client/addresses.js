/**
 * Paths of the service's routes, and the ids of images in them.
 *
 * @typedef {import("./edgesam.js").Reading} Reading
 */

// A variable of its own: bundlers would take `new URL("…", import.meta.url)` for a file to bundle.
const MODULE_URL = import.meta.url;

/**
 * The parameters of a reading and a model that are no defaults. Those of the reading have the order of an `image_id`.
 *
 * @param {Reading} reading
 * @param {string} [model] name of the model
 */
export function parameters({ levels = "auto", bands, region }, model = "") {
  return [
    ...(levels === "auto" ? [] : [`levels=${levels}`]),
    ...(bands ? [`bands=${bands}`] : []),
    ...(region ? [`region=${region}`] : []),
    ...(model ? [`model=${encodeURIComponent(model)}`] : []),
  ];
}

/** The `image_id` of a file that is read so. @param {string} imageHash @param {Reading} reading */
export function imageIdOf(imageHash, reading) {
  return [imageHash, ...parameters(reading)].join("~");
}

/** @param {string} path @param {string[]} query */
export function withQuery(path, query) {
  return query.length > 0 ? `${path}?${query.join("&")}` : path;
}

/** The box in a header of the service. @param {string | null} text @returns {import("./edgesam.js").Box | null} */
export function boxOf(text) {
  const [x0, y0, x1, y1] = (text ?? "").split(",").map(Number);
  return y1 > y0 ? [x0, y0, x1, y1] : null;
}

/** The header that lets a load balancer send all requests on an image to one replica. @param {string} imageId */
export function routingHeader(imageId) {
  return { "X-Image-Hash": imageId.split("~")[0] };
}

/** The address of the service that serves this module below `web/client/`. @throws {TypeError} if it comes from elsewhere */
export function defaultUrl() {
  const url = new URL("../../", MODULE_URL);
  if (!url.protocol.startsWith("http") || !new URL(MODULE_URL).pathname.endsWith("/web/client/addresses.js")) {
    throw new TypeError('Give the address of the service: new Client("https://masks.example/").');
  }
  return url;
}
