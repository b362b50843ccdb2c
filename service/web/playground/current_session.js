/** The session of the image in view. The parts of the page are connected once, while the image in view changes. */

import { Session } from "./session.js";

/**
 * A session with all members of the current one, which fires `change` also when another one becomes the current one.
 *
 * @returns {{session: Session, use: (session: Session) => void}} `use` sets the current session
 */
export function currentSession() {
  const events = new EventTarget();
  let current = new Session();
  const forward = () => events.dispatchEvent(new Event("change"));
  current.addEventListener("change", forward);

  const use = (session) => {
    current.removeEventListener("change", forward);
    current = session;
    current.addEventListener("change", forward);
    forward();
  };
  const get = (_, name) => {
    const owner = name in events ? events : current;
    const value = Reflect.get(owner, name, owner);
    return typeof value === "function" ? value.bind(owner) : value;
  };
  return { session: /** @type {Session} */ (new Proxy(events, { get })), use };
}
