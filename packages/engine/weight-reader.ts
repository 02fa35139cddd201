// Tensors of a model folder in native memory: the file's own pages where that can be (Tensor.mapped), so that a start
// copies nothing and processes share them; else a copy, made in pieces, so that beside the tensor only one piece exists.

import {
  type Device,
  type DType,
  elementBytes,
  freeOnThrow,
  MappedFile,
  type MemoryKind,
  type Placement,
  Tensor,
} from "#native";
import { expect, NibbleError } from "#packages/errors";
import type { ModelFolder, SafetensorsFile } from "#packages/hub";

const op = "load_model";
const pieceBytes = 4 << 20;
const readable: readonly string[] = ["float32", "bfloat16", "float16", "uint8"];

function dtypeOf(folder: ModelFolder, name: string): DType {
  const { dtype } = folder.info(name);
  expect(readable.includes(dtype), op, `${name}: expected ${readable.join(", ")}, got ${dtype}`);
  return dtype as DType;
}

/** A copy of its own. */
export function uploadTensor(folder: ModelFolder, name: string, device: Device, kind: MemoryKind = "weights"): Tensor {
  return upload(folder, name, { device, kind }, new Uint8Array(Math.min(pieceBytes, folder.info(name).byteLength)));
}

function upload(folder: ModelFolder, name: string, at: Placement, piece: Uint8Array): Tensor {
  const { shape, byteLength } = folder.info(name);
  const dtype = dtypeOf(folder, name);
  return freeOnThrow(() => {
    const t = Tensor.empty(dtype, shape, at);
    for (let at = 0; at < byteLength; at += piece.length) {
      const part = piece.subarray(0, Math.min(piece.length, byteLength - at));
      folder.readInto(name, part, at);
      t.write(part, at);
    }
    return t;
  });
}

/** Closing it, or the folder, leaves the tensors as they are. */
export class WeightReader {
  private readonly folder: ModelFolder;
  private readonly device: Device;
  private readonly mapped: boolean;
  /** What bytes go through on their way: one buffer for all tensors, as thousands would outlive their use. */
  readonly piece = new Uint8Array(pieceBytes);
  /** Null: of a file system that maps no files. */
  private readonly files = new Map<SafetensorsFile, MappedFile | null>();

  constructor(folder: ModelFolder, device: Device, { mapped }: { mapped: boolean }) {
    this.folder = folder;
    this.device = device;
    this.mapped = mapped && (device === "cpu" || device === "reference");
  }

  /** Of kind weights; not to be written to. @throws DATA_LOSS when the file has changed its length. */
  tensor(name: string): Tensor {
    const { shape, byteOffset, byteLength } = this.folder.info(name);
    const dtype = dtypeOf(this.folder, name);
    // Kernels need an element's alignment and no more; a header of odd length gives not even that.
    const isAligned = byteOffset % elementBytes[dtype] === 0;
    const file = this.mapped && isAligned && byteLength > 0 ? this.fileOf(name) : null;
    if (file === null) return upload(this.folder, name, { device: this.device, kind: "weights" }, this.piece);
    return Tensor.mapped(file, byteOffset, dtype, shape, this.device);
  }

  private fileOf(name: string): MappedFile | null {
    const file = this.folder.tensors.get(name)?.file;
    if (!file) return null;
    const known = this.files.get(file);
    if (known !== undefined) return known;
    const made = mapOrNull(file);
    this.files.set(file, made);
    return made;
  }

  close(): void {
    for (const file of this.files.values()) file?.close();
    this.files.clear();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function mapOrNull(file: SafetensorsFile): MappedFile | null {
  try {
    return new MappedFile(file.descriptor, file.byteLength, file.path);
  } catch (thrown) {
    const error = NibbleError.from(thrown, op);
    if (error.code === "RESOURCE_EXHAUSTED") return null;
    throw error;
  }
}
