/**
 * The few WASI calls that the engine makes: clocks, random bytes, log output and read-only files.
 * @module
 */

/**
 * @typedef {object} HostFile
 * @property {string} name path below "/", as the load options name it
 * @property {number} size in bytes
 * @property {(offset: number, destination: Uint8Array) => number | Promise<number>} read fills as much of `destination` as it can
 *   and returns the number of bytes; only engines opened with `asyncRead` may be given promises
 */

const ERRNO = { success: 0, badf: 8, inval: 28, io: 29, noent: 44, nosys: 52, notsup: 58, spipe: 70 };
const FILETYPE = { character: 2, directory: 3, regular: 4 };
const ROOT_FD = 3;
const FIRST_FILE_FD = 8;
const ALL_RIGHTS = 0xffffffffn;
const LOG_LINES = 200;
const MEDIA_FOLDER = 'media/';
/** getRandomValues refuses more at once. */
const RANDOM_CHUNK = 65536;

/** Keeps the state behind the imports: open files, log lines, the first error that a reader threw. */
export class WasiHost {
  /** @type {WebAssembly.Memory} */
  memory = /** @type {any} */ (undefined);
  #files = /** @type {Map<string, HostFile>} */ (new Map());
  #media = /** @type {Map<string, HostFile>} */ (new Map());
  #open = /** @type {Map<number, {file: HostFile, position: number}>} */ (new Map());
  #nextFd = FIRST_FILE_FD;
  #lines = /** @type {string[]} */ ([]);
  #partialLine = '';
  #decoder = new TextDecoder();
  #log;
  #readError = /** @type {unknown} */ (null);
  #view = new Uint8Array(0);

  /** @param {{files: HostFile[], log?: (line: string) => void, asyncRead: boolean}} options */
  constructor({ files, log, asyncRead }) {
    for (const file of files) this.#files.set(normal(file.name), file);
    this.#log = log;
    this.asyncRead = asyncRead;
  }

  /** The whole memory; a fresh view after it has grown. @returns {Uint8Array} */
  bytes() {
    if (this.#view.buffer !== this.memory.buffer) this.#view = new Uint8Array(this.memory.buffer);
    return this.#view;
  }

  /** @param {Uint8Array[]} media bytes that requests open as file://0, file://1, … */
  setMedia(media) {
    this.#media.clear();
    media.forEach((data, index) => {
      const read = (/** @type {number} */ offset, /** @type {Uint8Array} */ destination) => {
        const part = data.subarray(offset, offset + destination.length);
        destination.set(part);
        return part.length;
      };
      this.#media.set(`${MEDIA_FOLDER}${index}`, { name: String(index), size: data.length, read });
    });
  }

  takeReadError() {
    const error = this.#readError;
    this.#readError = null;
    return error;
  }

  recentLines() {
    return [...this.#lines];
  }

  /** The import object's functions, by WASI name. @returns {Record<string, Function>} */
  functions() {
    const missing = () => ERRNO.nosys;
    return {
      args_sizes_get: (count, size) => this.#writeSizes(count, size),
      args_get: () => ERRNO.success,
      environ_sizes_get: (count, size) => this.#writeSizes(count, size),
      environ_get: () => ERRNO.success,
      clock_res_get: (_clock, out) => this.#write64(out, 1000n),
      clock_time_get: (clock, _precision, out) => this.#write64(out, now(clock)),
      random_get: (at, size) => this.#random(at >>> 0, size >>> 0),
      sched_yield: () => ERRNO.success,
      proc_exit: (status) => {
        throw new Error(`the engine called exit(${status})`);
      },
      fd_write: (fd, vectors, count, out) => this.#write(fd, vectors, count, out),
      fd_prestat_get: (fd, out) => this.#prestat(fd, out),
      fd_prestat_dir_name: (_fd, at) => {
        this.bytes()[at >>> 0] = 0x2f;
        return ERRNO.success;
      },
      fd_fdstat_get: (fd, out) => this.#fdstat(fd, out),
      fd_fdstat_set_flags: () => ERRNO.success,
      fd_close: (fd) => (this.#open.delete(fd) || fd <= ROOT_FD ? ERRNO.success : ERRNO.badf),
      path_open: (_dir, _flags, path, length, _create, _rights, _inheriting, _fdFlags, out) => this.#openFile(path, length, out),
      path_filestat_get: (_dir, _flags, path, length, out) => {
        const file = this.#find(path, length);
        return file ? this.#filestat(out, FILETYPE.regular, file.size) : ERRNO.noent;
      },
      fd_filestat_get: (fd, out) => {
        const entry = this.#open.get(fd);
        if (entry) return this.#filestat(out, FILETYPE.regular, entry.file.size);
        return fd < ROOT_FD ? this.#filestat(out, FILETYPE.character, 0) : ERRNO.badf;
      },
      fd_seek: (fd, offset, whence, out) => this.#seek(fd, offset, whence, out),
      fd_tell: (fd, out) => {
        const entry = this.#open.get(fd);
        return entry ? this.#write64(out, BigInt(entry.position)) : ERRNO.badf;
      },
      fd_read: this.asyncRead
        ? new /** @type {any} */ (WebAssembly).Suspending((fd, vectors, count, out) => this.#readAsync(fd, vectors, count, out))
        : (fd, vectors, count, out) => this.#readSync(fd, vectors, count, out),
      path_unlink_file: missing,
      path_create_directory: missing,
      path_remove_directory: missing,
      path_rename: missing,
      path_readlink: missing,
      path_symlink: missing,
      path_link: missing,
      path_filestat_set_times: missing,
      fd_filestat_set_size: missing,
      fd_filestat_set_times: missing,
      fd_readdir: missing,
      fd_pwrite: missing,
      fd_pread: missing,
      fd_sync: missing,
      fd_datasync: missing,
      fd_renumber: missing,
      fd_advise: missing,
      fd_allocate: missing,
      poll_oneoff: missing,
      sock_accept: missing,
      sock_recv: missing,
      sock_send: missing,
      sock_shutdown: missing,
    };
  }

  #data() {
    return new DataView(this.memory.buffer);
  }

  #write64(at, value) {
    this.#data().setBigUint64(at >>> 0, value, true);
    return ERRNO.success;
  }

  #write32(at, value) {
    this.#data().setUint32(at >>> 0, value, true);
    return ERRNO.success;
  }

  #writeSizes(count, size) {
    this.#write32(count, 0);
    return this.#write32(size, 0);
  }

  #random(at, size) {
    const bytes = new Uint8Array(size);
    for (let start = 0; start < size; start += RANDOM_CHUNK) crypto.getRandomValues(bytes.subarray(start, start + RANDOM_CHUNK));
    this.bytes().set(bytes, at);
    return ERRNO.success;
  }

  #vectors(at, count) {
    const data = this.#data();
    return Array.from({ length: count }, (_, i) => {
      const start = data.getUint32((at >>> 0) + 8 * i, true);
      return [start, data.getUint32((at >>> 0) + 8 * i + 4, true)];
    });
  }

  #write(fd, vectors, count, out) {
    if (fd !== 1 && fd !== 2) return ERRNO.badf;
    let total = 0;
    for (const [start, size] of this.#vectors(vectors, count)) {
      this.#partialLine += this.#decoder.decode(this.bytes().slice(start, start + size));
      total += size;
    }
    const lines = this.#partialLine.split('\n');
    this.#partialLine = lines.pop() ?? '';
    for (const line of lines) {
      this.#lines.push(line);
      if (this.#lines.length > LOG_LINES) this.#lines.shift();
      this.#log?.(line);
    }
    return this.#write32(out, total);
  }

  #prestat(fd, out) {
    if (fd !== ROOT_FD) return ERRNO.badf;
    this.#write32(out, 0);
    return this.#write32((out >>> 0) + 4, 1);
  }

  #fdstat(fd, out) {
    if (fd > ROOT_FD && !this.#open.has(fd)) return ERRNO.badf;
    const at = out >>> 0;
    this.bytes().fill(0, at, at + 24);
    const type = fd < ROOT_FD ? FILETYPE.character : fd === ROOT_FD ? FILETYPE.directory : FILETYPE.regular;
    this.bytes()[at] = type;
    this.#write64(at + 8, ALL_RIGHTS);
    return this.#write64(at + 16, ALL_RIGHTS);
  }

  #filestat(out, type, size) {
    const at = out >>> 0;
    this.bytes().fill(0, at, at + 64);
    this.bytes()[at + 16] = type;
    return this.#write64(at + 32, BigInt(size));
  }

  #find(path, length) {
    const at = path >>> 0;
    const name = normal(new TextDecoder().decode(this.bytes().slice(at, at + (length >>> 0))));
    return this.#files.get(name) ?? this.#media.get(name);
  }

  #openFile(path, length, out) {
    const file = this.#find(path, length);
    if (!file) return ERRNO.noent;
    const fd = this.#nextFd++;
    this.#open.set(fd, { file, position: 0 });
    return this.#write32(out, fd);
  }

  #seek(fd, offset, whence, out) {
    const entry = this.#open.get(fd);
    if (!entry) return fd < ROOT_FD ? ERRNO.spipe : ERRNO.badf;
    const base = [0, entry.position, entry.file.size][whence];
    const position = base === undefined ? -1 : base + Number(offset);
    if (position < 0) return ERRNO.inval;
    entry.position = position;
    return this.#write64(out, BigInt(position));
  }

  #readSync(fd, vectors, count, out) {
    const entry = this.#open.get(fd);
    if (!entry) return ERRNO.badf;
    let total = 0;
    try {
      for (const [start, size] of this.#vectors(vectors, count)) {
        let done = 0;
        while (done < size && entry.position < entry.file.size) {
          const wanted = Math.min(size - done, entry.file.size - entry.position);
          const got = /** @type {number} */ (entry.file.read(entry.position, this.bytes().subarray(start + done, start + done + wanted)));
          if (!(got > 0)) return this.#shortRead(entry, got);
          done += got;
          entry.position += got;
        }
        total += done;
      }
    } catch (error) {
      this.#readError ??= error;
      return ERRNO.io;
    }
    return this.#write32(out, total);
  }

  async #readAsync(fd, vectors, count, out) {
    const entry = this.#open.get(fd);
    if (!entry) return ERRNO.badf;
    let total = 0;
    try {
      for (const [start, size] of this.#vectors(vectors, count)) {
        let done = 0;
        while (done < size && entry.position < entry.file.size) {
          const wanted = Math.min(size - done, entry.file.size - entry.position);
          const got = await entry.file.read(entry.position, this.bytes().subarray(start + done, start + done + wanted));
          if (!(got > 0)) return this.#shortRead(entry, got);
          done += got;
          entry.position += got;
        }
        total += done;
      }
    } catch (error) {
      this.#readError ??= error;
      return ERRNO.io;
    }
    return this.#write32(out, total);
  }

  #shortRead(entry, got) {
    this.#readError ??= new Error(`${entry.file.name} ended at byte ${entry.position} of ${entry.file.size} (a read returned ${got})`);
    return ERRNO.io;
  }
}

/**
 * The import object for one instance: WASI from `wasi`, `env` from `env`; an import that nobody provides traps with its name.
 * @param {WebAssembly.Module} module @param {WasiHost} wasi @param {Record<string, any>} env
 */
export function importsFor(module, wasi, env) {
  const functions = wasi.functions();
  const imports = /** @type {Record<string, Record<string, any>>} */ ({});
  for (const { module: group, name } of WebAssembly.Module.imports(module)) {
    const value = group === 'env' ? env[name] : functions[name];
    (imports[group] ??= {})[name] = value ?? (() => { throw new Error(`the engine called the missing import ${group}.${name}`); });
  }
  return imports;
}

/** Nanoseconds of the wall clock (0) or a steady clock (anything else). @param {number} clock @returns {bigint} */
function now(clock) {
  return BigInt(Math.round((clock === 0 ? performance.timeOrigin + performance.now() : performance.now()) * 1e6));
}

/** @param {string} path */
function normal(path) {
  return path.replace(/^(\.?\/)+/, '');
}
