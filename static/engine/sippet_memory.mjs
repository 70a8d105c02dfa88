/** WebAssembly memory of as many addresses as the browser gives: 4 GiB where it can, less on devices that are short of them. */

const PAGE = 65536;
const MAXIMUM_PAGES = [65536, 49152, 32768, 16384, 8192];

/**
 * @param {number} initial pages
 * @param {boolean} shared whether threads share it
 * @returns {{memory: WebAssembly.Memory, limit: number} | null} the memory, and the bytes that it can grow to
 */
export function largestMemory(initial, shared) {
  for (const maximum of MAXIMUM_PAGES) {
    try {
      return { memory: new WebAssembly.Memory({ initial, maximum, shared }), limit: maximum * PAGE };
    } catch {
      // not that many addresses: try fewer
    }
  }
  return null;
}
