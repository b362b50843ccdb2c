/** The JavaScript client at its public address; the module itself is `client/edgesam.js`. */

export * from "./client/edgesam.js";
