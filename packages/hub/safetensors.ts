// Reads safetensors files tensor by tensor, or by ranges of one. The header is checked whole at opening
// (safetensors-header.ts); values are not looked at. Nothing is mapped here: a file that shrinks while
// open is an error of its reads. Who maps it gets the descriptor, so that both see one file whatever its name becomes.
import { closeSync, fstatSync, openSync } from "node:fs";
import { NibbleError } from "#packages/errors";
import { readFully } from "./files.ts";
import { headerBytesMax, parseHeader, type SafetensorsHeader, type TensorInfo } from "./safetensors-header.ts";

const op = "safetensors";

export class SafetensorsFile {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: Readonly<Record<string, string>>;
  /** Of the whole file, when it was opened. */
  readonly byteLength: number;
  private fd: number;

  private constructor(path: string, fd: number, header: SafetensorsHeader) {
    this.path = path;
    this.fd = fd;
    this.byteLength = header.fileBytes;
    this.tensors = header.tensors;
    this.metadata = header.metadata;
  }

  static open(path: string): SafetensorsFile {
    let fd: number;
    try {
      fd = openSync(path, "r");
    } catch (thrown) {
      throw NibbleError.from(thrown, op);
    }
    try {
      return new SafetensorsFile(path, fd, readHeader(fd, path));
    } catch (thrown) {
      closeSync(fd);
      throw NibbleError.from(thrown, op);
    }
  }

  names(): string[] {
    return [...this.tensors.keys()];
  }

  info(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (info) return info;
    throw new NibbleError(`${this.path}: no tensor ${name}`, { code: "NOT_FOUND", op, details: { file: this.path } });
  }

  /** The tensor's bytes in a buffer of its own (offset 0, so that a typed array can be laid over it). */
  read(name: string): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(this.info(name).byteLength);
    this.readInto(name, bytes, 0);
    return bytes;
  }

  /** Fills `target` with the tensor's bytes from `byteOffset` on; `target` must not reach past its end. */
  readInto(name: string, target: Uint8Array, byteOffset = 0): void {
    const info = this.info(name);
    if (byteOffset < 0 || byteOffset + target.length > info.byteLength) {
      const range = `${byteOffset}..${byteOffset + target.length}`;
      throw new RangeError(`[${op}] ${name}: expected a range inside 0..${info.byteLength}, got ${range}`);
    }
    readFully(this.descriptor, target, info.byteOffset + byteOffset, op, `${this.path}: ${name}`);
  }

  /** Of the open file; it is this object's to close. */
  get descriptor(): number {
    if (this.fd < 0) throw new NibbleError(`${this.path} is closed`, { code: "FAILED_PRECONDITION", op });
    return this.fd;
  }

  close(): void {
    if (this.fd >= 0) closeSync(this.fd);
    this.fd = -1;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Opens a file and checks its header; the caller closes it. */
export function openSafetensors(path: string): SafetensorsFile {
  return SafetensorsFile.open(path);
}

function readHeader(fd: number, path: string): SafetensorsHeader {
  const stat = fstatSync(fd);
  if (!stat.isFile()) throw new NibbleError(`${path}: expected a file`, { code: "INVALID_ARGUMENT", op });
  const lengthBytes = Buffer.alloc(8);
  readFully(fd, lengthBytes, 0, op, `${path}: header length`);
  const length = lengthBytes.readBigUInt64LE();
  if (length > BigInt(Math.min(headerBytesMax, stat.size - 8))) {
    const limit = `at most ${Math.min(headerBytesMax, stat.size - 8)} (the file has ${stat.size} bytes)`;
    throw new NibbleError(`${path}: header length: expected ${limit}, got ${length}`, {
      code: "DATA_LOSS",
      op,
      details: { file: path },
    });
  }
  const header = new Uint8Array(Number(length));
  readFully(fd, header, 8, op, `${path}: header`);
  return parseHeader(header, stat.size, path);
}
