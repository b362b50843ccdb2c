/** Which of the stored works belongs to this tab. A lock of the browser keeps two tabs from writing the same one. */

import { recall, remember } from "./storage.js";

const SLOTS = 4; // tabs whose work is kept at the same time
const KEY = "edgesam-work-slot";
const RELOAD_MS = 2_000; // a page that is being reloaded releases its lock within this time

/** Whether this browser has locks. It has none where the page is opened over plain http. */
export const hasLocks = Boolean(globalThis.navigator?.locks);

/**
 * Lock the slot of this tab: the one from before a reload, else that of the newest work that no open tab has, else a free one.
 *
 * @param {string} name name of the database
 * @param {number[]} stored slots with work, the newest first
 * @returns {Promise<number | null>} null if all slots belong to open tabs
 */
export async function lockSlot(name, stored) {
  const own = Number(recall("sessionStorage", KEY));
  const all = Array.from({ length: SLOTS }, (_, i) => i + 1);
  if (own && (await lock(name, own, { signal: AbortSignal.timeout(RELOAD_MS) }))) return own;
  for (const slot of new Set([...stored, ...all])) {
    if (!(await lock(name, slot, { ifAvailable: true }))) continue;
    remember("sessionStorage", KEY, String(slot));
    return slot;
  }
  return null;
}

/**
 * Run a task for each of these slots that belongs to no open tab.
 *
 * @param {string} name name of the database
 * @param {number[]} slots
 * @param {(slot: number) => Promise<void>} task
 */
export async function forFreeSlots(name, slots, task) {
  for (const slot of slots) {
    await navigator.locks.request(`${name} ${slot}`, { ifAvailable: true }, async (held) => {
      if (held) await task(slot);
    });
  }
}

/** Lock a slot until the page is closed. @param {string} name @param {number} slot @param {LockOptions} options */
function lock(name, slot, options) {
  return new Promise((resolve) => {
    const hold = (held) => {
      resolve(held !== null);
      return held && new Promise(() => {});
    };
    navigator.locks.request(`${name} ${slot}`, options, hold).catch(() => resolve(false));
  });
}
