// Writes safetensors files with the memory of one tensor (or one chunk). The bytes go to
// "<path>.partial-<id>", which is synced and renamed when it is whole, so a full disk or a crash leaves
// the old file. The order in the file is that of the safetensors library, whatever the order of writes.
import { closeSync, fsyncSync, openSync, renameSync, rmSync } from "node:fs";
import { dirname } from "node:path";
import { NibbleError } from "#packages/errors";
import { byteLengthOf } from "./dtypes.ts";
import { partialName, readFully, syncFolder, type WriteCall, writeCall, writeError, writeFully } from "./files.ts";
import { layOut, type TensorInfo, type TensorSpec } from "./safetensors-header.ts";

const op = "safetensors_write";
const copyBytes = 1 << 20;

export interface WriterOptions {
  /** Default {format: "pt"}, which transformers wants to see. */
  metadata?: Record<string, string>;
  write?: WriteCall;
}

/** For when every name, dtype and shape is known before the first byte. */
export class SafetensorsWriter {
  readonly path: string;
  private readonly temporary: string;
  private readonly tensors: Map<string, TensorInfo>;
  private readonly written = new Map<string, number>();
  private readonly call: WriteCall;
  private fd: number;

  constructor(path: string, specs: readonly TensorSpec[], options: WriterOptions = {}) {
    const { head, tensors } = layOut(specs, options.metadata ?? { format: "pt" });
    this.path = path;
    this.temporary = partialName(path);
    this.tensors = tensors;
    this.call = options.write ?? writeCall;
    this.fd = open(this.temporary);
    this.guard(() => writeFully(this.fd, head, 0, this.call));
  }

  /** The whole tensor, or the next piece of it: pieces follow one another, tensors come in any order. */
  write(name: string, bytes: Uint8Array): void {
    const info = this.tensors.get(name);
    if (!info) throw new NibbleError(`tensor ${name} is not in the plan`, { code: "INVALID_ARGUMENT", op });
    const done = this.written.get(name) ?? 0;
    if (done + bytes.length > info.byteLength) {
      const message = `tensor ${name}: expected ${info.byteLength} bytes, got ${done + bytes.length}`;
      throw new NibbleError(message, { code: "INVALID_ARGUMENT", op });
    }
    this.guard(() => writeFully(this.fd, bytes, info.byteOffset + done, this.call));
    this.written.set(name, done + bytes.length);
  }

  /** Checks that nothing is missing, syncs, and puts the file in its place. */
  finish(): void {
    const short = [...this.tensors].find(([name, info]) => (this.written.get(name) ?? 0) !== info.byteLength);
    this.guard(() => {
      if (short) {
        const got = this.written.get(short[0]) ?? 0;
        throw new RangeError(`[${op}] tensor ${short[0]}: expected ${short[1].byteLength} bytes, got ${got}`);
      }
      fsyncSync(this.fd);
      closeSync(this.fd);
      this.fd = -1;
      renameSync(this.temporary, this.path);
      syncFolder(dirname(this.path));
    });
  }

  /** Drops what was written; the old file stays. Harmless after finish(). */
  abort(): void {
    if (this.fd >= 0) closeSync(this.fd);
    this.fd = -1;
    rmSync(this.temporary, { force: true });
  }

  private guard(work: () => void): void {
    try {
      if (this.fd < 0) throw new NibbleError(`${this.path} is finished`, { code: "FAILED_PRECONDITION", op });
      work();
    } catch (thrown) {
      this.abort();
      throw writeError(thrown, op, this.path);
    }
  }
}

/**
 * For when sizes are only known tensor by tensor (a quant state's JSON holds a number that comes out of
 * the weights): tensors are appended to a spool beside `path`, and finish() copies them into their order.
 */
export class SafetensorsSpool {
  readonly path: string;
  private readonly spoolPath: string;
  private readonly specs: (TensorSpec & { at: number })[] = [];
  private readonly options: WriterOptions;
  private fd: number;
  private end = 0;

  constructor(path: string, options: WriterOptions = {}) {
    this.path = path;
    this.options = options;
    this.spoolPath = partialName(`${path}.spool`);
    this.fd = open(this.spoolPath);
  }

  get tensorCount(): number {
    return this.specs.length;
  }

  get byteLength(): number {
    return this.end;
  }

  add(spec: TensorSpec, bytes: Uint8Array): void {
    const expected = byteLengthOf(spec.dtype, spec.shape);
    if (bytes.length !== expected) {
      const message = `tensor ${spec.name}: expected ${expected} bytes, got ${bytes.length}`;
      throw new NibbleError(message, { code: "INVALID_ARGUMENT", op });
    }
    try {
      writeFully(this.fd, bytes, this.end, this.options.write);
    } catch (thrown) {
      this.abort();
      throw writeError(thrown, op, this.path);
    }
    this.specs.push({ name: spec.name, dtype: spec.dtype, shape: spec.shape, at: this.end });
    this.end += bytes.length;
  }

  finish(): void {
    let writer: SafetensorsWriter | undefined;
    try {
      writer = new SafetensorsWriter(this.path, this.specs, this.options);
      const buffer = new Uint8Array(copyBytes);
      for (const spec of this.specs) this.copy(spec, buffer, writer);
      writer.finish();
    } catch (thrown) {
      throw NibbleError.from(thrown, op);
    } finally {
      writer?.abort();
      this.abort();
    }
  }

  private copy(spec: TensorSpec & { at: number }, buffer: Uint8Array, writer: SafetensorsWriter): void {
    const end = spec.at + byteLengthOf(spec.dtype, spec.shape);
    for (let from = spec.at; from < end; ) {
      const piece = buffer.subarray(0, Math.min(buffer.length, end - from));
      readFully(this.fd, piece, from, op, this.spoolPath);
      writer.write(spec.name, piece);
      from += piece.length;
    }
  }

  /** Removes the spool. Harmless after finish(). */
  abort(): void {
    if (this.fd >= 0) closeSync(this.fd);
    this.fd = -1;
    rmSync(this.spoolPath, { force: true });
  }
}

function open(path: string): number {
  try {
    return openSync(path, "wx+");
  } catch (thrown) {
    throw NibbleError.from(thrown, op);
  }
}
