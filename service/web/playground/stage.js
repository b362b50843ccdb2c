/**
 * Draws the image and the masks on two canvases. The lower one holds the image and changes with zoom and pan only. The
 * upper one holds masks, prompts, handles and crosshair and changes with every click. Masks outside the view are not drawn.
 *
 * @typedef {object} Handles what the user edits on the selected object
 * @property {import("./prompts.js").SessionPrompt | null} prompt drawn in place of the object's prompt, during a drag
 * @property {object | null} mask drawn in place of the object's mask, during a drag
 * @property {import("./handles.js").Handle | null} selected
 *
 * @typedef {object} Brush
 * @property {{x: number, y: number} | null} cursor middle of the circle, in pixels of the image
 * @property {number} radius pixels of the image
 * @property {{path: Path2D, isErasing: boolean} | null} stroke drawn into the selected object's mask
 */

import { MaskSprites, isInView } from "./mask_sprites.js";
import { drawBox, drawBrush, drawCrosshair, drawHandles, drawPrompt } from "./stage_marks.js";
import { fitted, moved, toImage, zoomed } from "./viewport.js";

const MARGIN = 24;
const OPACITY = 0.45; // of masks
const PREVIEW_OPACITY = 0.33;
const PREVIEW_COLOUR = "#ffffff";
const REGION_COLOUR = "#ffd43b";
const SQUARE_SIDE = 10; // CSS pixels; squares of the pattern behind transparent pixels

export class Stage extends EventTarget {
  #lower;
  #upper;
  #image = /** @type {ImageBitmap | null} */ (null);
  #size = { width: 1, height: 1 };
  #view = { scale: 1, x: 0, y: 0 };
  #isFitted = true;
  #isImageStale = true;
  #frame = 0;
  #masks = new MaskSprites();
  #layer = document.createElement("canvas"); // the mask under the brush, while it is painted
  #scene = {
    objects: [],
    selectedId: 0,
    preview: null,
    draft: null,
    crosshair: null,
    isCutOut: false,
    handles: null,
    brush: null,
    opacity: OPACITY,
    showsOutline: true,
    found: null,
    regions: [],
  };

  /** @param {HTMLCanvasElement} lower @param {HTMLCanvasElement} upper */
  constructor(lower, upper) {
    super();
    this.#lower = lower;
    this.#upper = upper;
    new ResizeObserver(() => this.#resize()).observe(upper);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw({}));
    this.#resize();
  }

  /** @returns {ImageBitmap | null} */
  get image() {
    return this.#image;
  }

  get view() {
    return this.#view;
  }

  /** The view that the user chose by zoom or pan, or null if the whole image is shown. */
  get chosenView() {
    return this.#isFitted ? null : this.#view;
  }

  /** @param {ImageBitmap | null} image @param {import("./viewport.js").View | null} [view] null shows the whole image */
  show(image, view = null) {
    this.#image?.close();
    this.#image = image;
    this.#masks = new MaskSprites(); // the drawn masks of many images would fill the memory
    this.#isImageStale = true;
    this.draw({}); // also without an image: the one before must not stay
    this.fit();
    if (!image || !view) return;
    this.#isFitted = false;
    this.#move(moved(view, 0, 0, image, this.#size));
  }

  /**
   * Draw with the next frame.
   *
   * @param {Partial<{objects: {id: number, colour: string, isVisible: boolean, prompt: object | null, mask: object | null,
   *   granularityBox: number[] | null}[],
   *   selectedId: number, preview: object | null, draft: number[] | null,
   *   crosshair: {x: number, y: number} | null, isCutOut: boolean, handles: Handles | null, brush: Brush | null,
   *   opacity: number, showsOutline: boolean, found: import("./found_layer.js").FoundLayer | null,
   *   regions: number[][]}>} scene the members that have changed; `opacity` of masks is 0..1, and `regions` are boxes in
   *   which clicks see more detail
   */
  draw(scene) {
    Object.assign(this.#scene, scene);
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      this.#paint();
    });
  }

  fit() {
    this.#isFitted = true;
    if (this.#image) this.#move(this.#fit());
  }

  /** @param {number} factor @param {{x: number, y: number}} [at] on the screen; the middle unless given */
  zoom(factor, at = { x: this.#size.width / 2, y: this.#size.height / 2 }) {
    if (!this.#image) return;
    this.#isFitted = false;
    const view = zoomed(this.#view, factor, at, this.#fit().scale);
    this.#move(moved(view, 0, 0, this.#image, this.#size));
  }

  /** @param {number} dx @param {number} dy CSS pixels */
  pan(dx, dy) {
    if (!this.#image) return;
    this.#isFitted = false;
    this.#move(moved(this.#view, dx, dy, this.#image, this.#size));
  }

  /** The pixel of the image at a screen position, clamped to the image, to a tenth. @param {{x: number, y: number}} at */
  locate(at) {
    const { x, y } = toImage(this.#view, at);
    const { width, height } = this.#image ?? { width: 1, height: 1 };
    const clamped = (value, max) => Math.round(Math.min(max, Math.max(0, value)) * 10) / 10;
    return { x: clamped(x, width), y: clamped(y, height) };
  }

  /** The position on the image, which may lie beside it. @param {{x: number, y: number}} at on the screen */
  unproject(at) {
    return toImage(this.#view, at);
  }

  /** @param {{x: number, y: number}} at on the screen */
  isOnImage(at) {
    if (!this.#image) return false;
    const { x, y } = toImage(this.#view, at);
    return x >= 0 && y >= 0 && x <= this.#image.width && y <= this.#image.height;
  }

  #fit() {
    return fitted(this.#image ?? this.#size, this.#size, Math.min(MARGIN, this.#size.width / 24));
  }

  #move(view) {
    this.#view = view;
    this.#isImageStale = true;
    this.draw({});
    this.dispatchEvent(new Event("view"));
  }

  #resize() {
    const { clientWidth: width, clientHeight: height } = this.#upper;
    if (width === 0 || height === 0) return;
    this.#size = { width, height };
    for (const canvas of [this.#lower, this.#upper]) {
      canvas.width = Math.round(width * devicePixelRatio);
      canvas.height = Math.round(height * devicePixelRatio);
    }
    this.#isImageStale = true;
    if (this.#isFitted) this.fit();
    this.#paint(); // at once, since resizing clears a canvas
  }

  #paint() {
    if (this.#isImageStale) this.#paintImage();
    this.#isImageStale = false;
    const context = this.#upper.getContext("2d");
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.clearRect(0, 0, this.#size.width, this.#size.height);
    if (!this.#image) return;
    this.#masks.begin();
    const { objects, selectedId, draft, crosshair, isCutOut, brush } = this.#scene;
    const shown = objects.filter(({ isVisible }) => isVisible);
    if (isCutOut) this.#paintTransparency(context, shown);
    else this.#paintObjects(context, shown, shown.find(({ id }) => id === selectedId));
    for (const region of this.#scene.regions) drawBox(context, this.#view, region, REGION_COLOUR);
    if (draft) drawBox(context, this.#view, draft, "#ffffff");
    if (crosshair) drawCrosshair(context, this.#view, crosshair);
    if (brush?.cursor) drawBrush(context, this.#view, brush.cursor, brush.radius);
    if (!this.#masks.isComplete) this.draw({});
  }

  #paintObjects(context, objects, selected) {
    const { preview, handles, brush, found } = this.#scene;
    if (found) this.#paintFound(context, found);
    for (const object of objects) {
      const mask = object === selected && handles?.mask ? handles.mask : object.mask;
      if (object === selected && brush?.stroke) this.#paintStroke(context, mask, object.colour, brush);
      else if (mask) this.#paintMask(context, mask, object.colour, this.#scene.opacity);
    }
    if (!brush?.stroke) this.#layer.width = 0; // frees its memory
    if (preview) this.#paintMask(context, preview, PREVIEW_COLOUR, PREVIEW_OPACITY);
    if (!selected) return;
    if (selected.granularityBox) drawBox(context, this.#view, selected.granularityBox, selected.colour);
    const prompt = handles?.prompt ?? selected.prompt;
    if (!prompt) return;
    drawPrompt(context, this.#view, prompt, selected.colour);
    if (handles) drawHandles(context, this.#view, prompt, handles.selected);
  }

  /** All masks of an everything result. */
  #paintFound(context, { canvas, step }) {
    this.#useImageCoordinates(context, { x: 0, y: 0, step });
    context.drawImage(canvas, 0, 0);
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  }

  #paintImage() {
    const context = this.#lower.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.#lower.width, this.#lower.height);
    if (!this.#image) return;
    this.#useImageCoordinates(context);
    context.imageSmoothingEnabled = this.#view.scale * devicePixelRatio < 3; // at larger scales the user wants to see the pixels
    context.imageSmoothingQuality = "high";
    context.drawImage(this.#image, 0, 0);
  }

  /** @param {CanvasRenderingContext2D} context @param {{x: number, y: number, step: number}} [origin] in pixels of the image */
  #useImageCoordinates(context, origin = { x: 0, y: 0, step: 1 }) {
    const { scale, x, y } = this.#view;
    const zoom = devicePixelRatio * scale;
    const step = zoom * origin.step;
    context.setTransform(step, 0, 0, step, devicePixelRatio * x + zoom * origin.x, devicePixelRatio * y + zoom * origin.y);
  }

  #paintTransparency(context, objects) {
    const { scale, x, y } = this.#view;
    const area = [x, y, this.#image.width * scale, this.#image.height * scale];
    context.fillStyle = pattern(context);
    context.fillRect(...area);
    context.globalCompositeOperation = "destination-out";
    for (const { mask } of objects) if (mask) this.#paintTint(context, mask, "#ffffff");
    context.globalCompositeOperation = "source-over";
  }

  #paintMask(context, mask, colour, opacity) {
    const style = { colour, opacity, hasOutline: this.#scene.showsOutline };
    this.#masks.draw(context, this.#view, this.#size, mask, style);
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  }

  /** Fill a mask, without its outline. */
  #paintTint(context, mask, colour) {
    if (!isInView(this.#view, this.#size, mask)) return;
    const drawn = this.#masks.drawn(mask, this.#view);
    this.#useImageCoordinates(context, drawn);
    context.drawImage(drawn.tinted(colour), 0, 0);
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  }

  /** Fill a mask as it will be after a stroke of the brush. */
  #paintStroke(context, mask, colour, { radius, stroke }) {
    this.#layer.width = this.#upper.width; // also clears it
    this.#layer.height = this.#upper.height;
    const layer = this.#layer.getContext("2d");
    if (mask) this.#paintTint(layer, mask, colour);
    this.#useImageCoordinates(layer);
    layer.globalCompositeOperation = stroke.isErasing ? "destination-out" : "source-over";
    layer.lineCap = layer.lineJoin = "round";
    layer.lineWidth = 2 * radius;
    layer.strokeStyle = colour;
    layer.beginPath();
    layer.rect(0, 0, this.#image.width, this.#image.height);
    layer.clip();
    layer.stroke(stroke.path);
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = this.#scene.opacity;
    context.drawImage(this.#layer, 0, 0);
    context.globalAlpha = 1;
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
  }
}

function pattern(context) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 2 * SQUARE_SIDE;
  const pen = tile.getContext("2d");
  const style = getComputedStyle(document.documentElement);
  pen.fillStyle = style.getPropertyValue("--square-light");
  pen.fillRect(0, 0, 2 * SQUARE_SIDE, 2 * SQUARE_SIDE);
  pen.fillStyle = style.getPropertyValue("--square-dark");
  pen.fillRect(0, 0, SQUARE_SIDE, SQUARE_SIDE);
  pen.fillRect(SQUARE_SIDE, SQUARE_SIDE, SQUARE_SIDE, SQUARE_SIDE);
  return context.createPattern(tile, "repeat");
}
