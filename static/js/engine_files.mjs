/**
 * Model files as the engine reads them: by offset, straight into WebAssembly memory.
 *
 * A file is given as `{name, blob}` (a user's File, or downloaded bytes that the browser holds) or `{name, handle}`
 * (an installed model: a FileSystemFileHandle of the origin's private file system).
 */

const READ_AHEAD = 1 << 20; // bytes; GGUF metadata is read in many tiny pieces
const SLICE = 16 << 20; // bytes; bounds the transient copy that reading a Blob makes

/**
 * @param {{name: string, blob?: Blob, handle?: FileSystemFileHandle}} file
 * @returns {Promise<{name: string, size: number, read(offset: number, into: Uint8Array): number,
 *   readAsync(offset: number, into: () => Uint8Array): Promise<number>, close(): void}>}
 */
export async function openFile({name, blob, handle}) {
  // Firefox gives out one handle at a time: where another tab holds it, a snapshot of the file is read instead.
  const access = await handle?.createSyncAccessHandle?.({mode: "read-only"}).catch(() => null);
  if (access) {
    const read = (offset, into) => access.read(into, {at: offset});
    return {
      name,
      size: access.getSize(),
      read: buffered(access.getSize(), read),
      readAsync: async (offset, into) => read(offset, into()),
      close: () => access.close(),
    };
  }
  const source = blob ?? (await handle.getFile());
  const reader = typeof FileReaderSync === "undefined" ? null : new FileReaderSync();
  const read = (offset, into) => {
    if (!reader) throw new Error("files can be read synchronously only in a worker");
    return inSlices(offset, into.length, source.size, (from, to, at) => {
      into.set(new Uint8Array(reader.readAsArrayBuffer(source.slice(from, to))), at);
    });
  };
  return {
    name,
    size: source.size,
    read: buffered(source.size, read),
    async readAsync(offset, into) {
      const wanted = Math.min(into().length, source.size - offset);
      for (let done = 0; done < wanted; done += SLICE) {
        const from = offset + done;
        const piece = await source.slice(from, Math.min(from + SLICE, offset + wanted)).arrayBuffer();
        into().set(new Uint8Array(piece), done); // asked anew: memory may have grown while we waited
      }
      return Math.max(wanted, 0);
    },
    close() {},
  };
}

function inSlices(offset, length, size, copy) {
  const wanted = Math.max(Math.min(length, size - offset), 0);
  for (let done = 0; done < wanted; done += SLICE) {
    copy(offset + done, offset + Math.min(done + SLICE, wanted), done);
  }
  return wanted;
}

/** Serve small reads from one read-ahead block. */
function buffered(size, read) {
  let block = new Uint8Array(0);
  let start = 0;
  return (offset, into) => {
    const wanted = Math.min(into.length, size - offset);
    if (wanted <= 0) return 0;
    if (wanted >= READ_AHEAD) return read(offset, into.length === wanted ? into : into.subarray(0, wanted));
    if (offset < start || offset + wanted > start + block.length) {
      block = new Uint8Array(Math.min(READ_AHEAD, size - offset));
      block = block.subarray(0, read(offset, block));
      start = offset;
    }
    into.set(block.subarray(offset - start, offset - start + wanted));
    return Math.min(wanted, block.length - (offset - start));
  };
}
