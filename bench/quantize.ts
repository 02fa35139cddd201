// Times the quantization of a 16-bit model folder to NF4 with double quantization:
//   node scripts/run.mjs ../bench/quantize MODEL_DIR [--threads 2] [--json]
// quantize_s: every linear layer, from memory to memory. load_quantize_s: the whole folder into memory, quantized on
// the way, for the second time in the process, as the peer has read its file once before, too; first_load_s: for the
// first time. read_s: the same files read into memory that is there already, which is the least that loading can cost
// without a map (page cache warm). folder_s: from folder to folder, with digest and fsync.
// Before all of them the memory that they will need is touched once: a virtual machine may have given free pages back to
// its host (virtio-balloon's free page reporting), which takes 20 times as long to give them again as the kernel to clear
// them, and that is the machine's time, not the loader's.
import { closeSync, fstatSync, globSync, mkdtempSync, openSync, readSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { setThreadCount, Tensor } from "#native";
import { openModelFolder } from "#packages/hub";
import { freeModel, loadModel } from "../packages/engine/model-load.ts";
import { quantizeModel } from "../packages/engine/quantize-model.ts";
import { defaultQuant, freeWeight, quantizeMatrix } from "../packages/engine/quantize-tensor.ts";
import { uploadTensor } from "../packages/engine/weight-reader.ts";

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: "string", default: String(availableParallelism()) },
    folder: { type: "boolean", default: false },
    json: { type: "boolean", default: false },
  },
});
const [modelDir] = positionals;
if (modelDir === undefined) throw new Error("expected a model folder");
setThreadCount(Number(options.threads));

function seconds(work: () => void): number {
  const started = performance.now();
  work();
  return (performance.now() - started) / 1000;
}

/** So that the host has given the pages; they are this machine's free memory afterwards. */
function touchMemory(bytes: number): void {
  const piece = new Uint8Array(4 << 20).fill(1);
  const memory = Tensor.empty("uint8", [bytes], { device: "cpu", kind: "workspace" });
  for (let at = 0; at < bytes; at += piece.length)
    memory.write(piece.subarray(0, Math.min(piece.length, bytes - at)), at);
  memory.free();
}

/** Into a buffer whose pages are there: what the kernel's copy costs. */
function readFiles(dir: string): () => void {
  const files = globSync("*.safetensors", { cwd: dir }).map((name) => join(dir, name));
  const buffers = files.map((file) => {
    const fd = openSync(file, "r");
    const buffer = Buffer.alloc(fstatSync(fd).size, 1);
    closeSync(fd);
    return buffer;
  });
  return () =>
    files.forEach((file, i) => {
      const fd = openSync(file, "r");
      const buffer = buffers[i] ?? Buffer.alloc(0);
      for (let at = 0; at < buffer.length; ) at += readSync(fd, buffer, at, buffer.length - at, at);
      closeSync(fd);
    });
}

/** Every linear layer of the blocks, from memory to memory. */
function quantizeAll(dir: string): number {
  using folder = openModelFolder(dir);
  const names = [...folder.tensors.keys()].filter((n) => n.includes(".layers.") && folder.info(n).shape.length === 2);
  const sources = names.map((name): [string, Tensor] => [name, uploadTensor(folder, name, "cpu")]);
  const warm = uploadTensor(folder, names[0] ?? "", "cpu");
  freeWeight(quantizeMatrix(warm, "warm", defaultQuant, "cpu"));
  return seconds(() => {
    for (const [name, source] of sources) freeWeight(quantizeMatrix(source, name, defaultQuant, "cpu"));
  });
}

function loadAndQuantize(dir: string): void {
  using folder = openModelFolder(dir);
  freeModel(loadModel(folder, { device: "cpu", quant: defaultQuant, positions: 1024 }));
}

touchMemory(1 << 30);
const read = readFiles(modelDir);
read();
const read_s = seconds(read);
const figures: Record<string, number> = {
  quantize_s: quantizeAll(modelDir),
  first_load_s: seconds(() => loadAndQuantize(modelDir)),
  load_quantize_s: seconds(() => loadAndQuantize(modelDir)),
  read_s,
};
if (options.folder) {
  const out = mkdtempSync(join(dirname(modelDir), "quantized-"));
  const started = performance.now();
  await quantizeModel({ modelDir, outDir: out, quant: defaultQuant });
  figures["folder_s"] = (performance.now() - started) / 1000;
  rmSync(out, { recursive: true });
}
const text = Object.entries(figures).map(([name, s]) => `${name.padEnd(18)}${(1000 * s).toFixed(1).padStart(9)} ms`);
process.stdout.write(options.json ? `${JSON.stringify(figures)}\n` : `${text.join("\n")}\n`);
