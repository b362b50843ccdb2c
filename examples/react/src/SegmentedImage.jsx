import { drawRaster, rasterOfRle } from "edgesam-client";
import { useEffect, useRef, useState } from "react";

const PREVIEW = [59, 130, 246, 110];
const CHOSEN = [255, 111, 31, 150];

/**
 * An image on which objects are selected: the mask under the pointer is a preview, a click keeps it, and further clicks
 * refine it (Shift: not this part; Escape: start again).
 *
 * @param {object} props
 * @param {import("edgesam-client").Client} props.client
 * @param {File} props.file image file
 * @param {(mask: import("edgesam-client").Mask) => void} [props.onMask] called with each new mask
 */
export function SegmentedImage({ client, file, onMask }) {
  const [source, setSource] = useState("");
  const [image, setImage] = useState(null);
  const [status, setStatus] = useState("");
  const overlay = useRef(null);
  const chosen = useRef({ points: [], mask: null });
  const request = useRef(null);
  const isClicking = useRef(false);

  useEffect(() => {
    const address = URL.createObjectURL(file);
    const controller = new AbortController();
    let imageHash = "";
    setSource(address);
    setStatus("Embedding the image …");
    client
      .embed(file, { signal: controller.signal })
      .then((embedded) => {
        imageHash = embedded.image_hash;
        setImage(embedded);
        setStatus("Click on an object.");
      })
      .catch((error) => controller.signal.aborted || setStatus(error.message));
    return () => {
      controller.abort();
      client.forget(imageHash); // the client keeps the file, to embed it again if the service evicts it
      URL.revokeObjectURL(address);
    };
  }, [client, file]);

  /** Ask for a mask. A newer request replaces one that is still running, so that previews never pile up. */
  async function segment(prompt, isGlimpse) {
    request.current?.abort();
    const controller = new AbortController();
    request.current = controller;
    try {
      const answer = await client.segment(image.image_id, [prompt], { signal: controller.signal, isGlimpse });
      return answer.results[0].masks[0];
    } catch (error) {
      if (!controller.signal.aborted && !isGlimpse) setStatus(error.message);
      return null;
    }
  }

  function pointOf(event) {
    const { left, top, width, height } = event.currentTarget.getBoundingClientRect();
    const x = ((event.clientX - left) * image.width) / width;
    const y = ((event.clientY - top) * image.height) / height;
    return { x: Math.min(Math.max(x, 0), image.width - 1), y: Math.min(Math.max(y, 0), image.height - 1) };
  }

  async function preview(event) {
    if (!image || chosen.current.mask || isClicking.current) return;
    const mask = await segment({ points: [pointOf(event)] }, true);
    if (mask && !chosen.current.mask) drawRaster(overlay.current, rasterOfRle(mask.rle), PREVIEW);
  }

  async function click(event) {
    if (!image) return;
    const points = [...chosen.current.points, { ...pointOf(event), label: event.shiftKey ? 0 : 1 }];
    isClicking.current = true;
    const mask = await segment({ points, mask_id: chosen.current.mask?.mask_id }, false);
    isClicking.current = false;
    if (!mask) return;
    chosen.current = { points, mask };
    drawRaster(overlay.current, rasterOfRle(mask.rle), CHOSEN);
    setStatus(`${mask.area} pixels, score ${mask.score.toFixed(2)}`);
    onMask?.(mask);
  }

  function startAgain(event) {
    if (event.key !== "Escape") return;
    chosen.current = { points: [], mask: null };
    overlay.current.getContext("2d").clearRect(0, 0, overlay.current.width, overlay.current.height);
    setStatus("Click on an object.");
  }

  return (
    <figure style={{ margin: 0 }}>
      <div tabIndex={0} style={{ position: "relative", cursor: "crosshair" }} onPointerMove={preview} onClick={click} onKeyDown={startAgain}>
        <img src={source} alt={file.name} style={{ display: "block", width: "100%" }} draggable={false} />
        <canvas ref={overlay} style={{ position: "absolute", inset: 0, width: "100%", height: "100%", pointerEvents: "none" }} />
      </div>
      <figcaption role="status">{status}</figcaption>
    </figure>
  );
}
