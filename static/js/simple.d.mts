// TypeScript looks for the types of `simple.mjs` here.
export * from "./simple.js";
