// Names, sizes and file order of the dtypes that a safetensors file may hold. It knows no tensors.

/** [name in the file, our name, bytes an element], in the order of safetensors' own enumeration: files sort by it, last first. */
const table = [
  ["BOOL", "bool", 1],
  ["U8", "uint8", 1],
  ["I8", "int8", 1],
  ["F8_E5M2", "float8_e5m2", 1],
  ["F8_E4M3", "float8_e4m3", 1],
  ["I16", "int16", 2],
  ["U16", "uint16", 2],
  ["F16", "float16", 2],
  ["BF16", "bfloat16", 2],
  ["I32", "int32", 4],
  ["U32", "uint32", 4],
  ["F32", "float32", 4],
  ["F64", "float64", 8],
  ["I64", "int64", 8],
  ["U64", "uint64", 8],
] as const;

export type StoredDType = (typeof table)[number][1];

const byFileName = new Map<string, StoredDType>(table.map(([file, ours]) => [file, ours]));
const rows = new Map<string, { fileName: string; bytes: number; rank: number }>(
  table.map(([fileName, ours, bytes], rank) => [ours, { fileName, bytes, rank }]),
);

function row(dtype: StoredDType) {
  const found = rows.get(dtype);
  if (!found) throw new RangeError(`[dtype] expected one of ${[...rows.keys()].join(", ")}, got ${dtype}`);
  return found;
}

export const storedDTypes: readonly StoredDType[] = table.map(([, ours]) => ours);

export function dtypeOfFileName(name: string): StoredDType | undefined {
  return byFileName.get(name);
}

export function fileNameOfDtype(dtype: StoredDType): string {
  return row(dtype).fileName;
}

function bytesOfDtype(dtype: StoredDType): number {
  return row(dtype).bytes;
}

/** The place in a file: wider dtypes first, so that every tensor is aligned; larger is earlier. */
export function rankOfDtype(dtype: StoredDType): number {
  return row(dtype).rank;
}

export function elementsOf(shape: readonly number[]): number {
  return shape.reduce((product, n) => product * n, 1);
}

export function byteLengthOf(dtype: StoredDType, shape: readonly number[]): number {
  return elementsOf(shape) * bytesOfDtype(dtype);
}
