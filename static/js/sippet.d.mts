// TypeScript looks for the types of `sippet.mjs` here.
export * from "./sippet.js";
