/** Handing things over to the machine: downloads and the clipboard. */

const REVOKE_AFTER_MS = 60_000; // a slow disk may take its time; the browser does not tell

/** @param {Blob} blob @param {string} name */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), REVOKE_AFTER_MS);
}

/** Also over plain http, where pages have no clipboard of their own. @param {string} text */
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

/** Whether pictures can be copied here. */
export const canCopyPictures = Boolean(navigator.clipboard?.write && globalThis.ClipboardItem);

/** @param {Promise<Blob>} png */
export async function copyPicture(png) {
  await navigator.clipboard.write([new ClipboardItem({ "image/png": png })]);
}
