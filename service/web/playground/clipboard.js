/** Downloads and the clipboard. */

const REVOKE_AFTER_MS = 60_000; // the browser does not report when it has written the file

/** @param {Blob} blob @param {string} name file name */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), REVOKE_AFTER_MS);
}

/** Works over plain http too, where `navigator.clipboard` does not exist. @param {string} text */
export async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "off-screen";
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  if (!isCopied) throw new Error("The browser does not let this page copy.");
}

/** Whether this browser can copy images. */
export const canCopyImages = Boolean(navigator.clipboard?.write && globalThis.ClipboardItem);

/** @param {Promise<Blob>} png */
export async function copyImage(png) {
  await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
}
