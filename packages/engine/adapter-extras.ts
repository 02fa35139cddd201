// What a PEFT adapter may bring beside LoRA: DoRA's magnitudes (arXiv:2402.09353, eq. 5), an embedding and a head of its
// own, rows of the embedding. For inference, merging and export, and to train LoRA's matrices on top; none of it is trained here.
import { freeOnThrow, Tensor } from "#native";
import type { AdapterFolder, FloatDType, LlamaConfig, SavedModule } from "#packages/hub";
import { addAdapter, denseValues, floatsOf } from "./dense.ts";
import type { LinearLayer, LoraLayer } from "./layers.ts";
import { type Adapter, type AdapterDType, loadAdapter } from "./lora.ts";
import { denseWeight } from "./model-load.ts";
import { type LlamaModel, linearsOf } from "./models/llama.ts";

class ExtrasReader {
  private readonly model: LlamaModel;
  private readonly folder: AdapterFolder;

  constructor(model: LlamaModel, folder: AdapterFolder) {
    this.model = model;
    this.folder = folder;
  }

  private upload(values: Float32Array, shape: readonly number[]): Tensor {
    return Tensor.fromFloat32(values, shape, { device: this.model.embed.device, kind: "adapter" });
  }

  private tensor(key: string): Tensor {
    const { dtype, shape } = this.folder.file.info(key);
    const at = { device: this.model.embed.device, kind: "adapter" } as const;
    return Tensor.fromBytes(this.folder.file.read(key), dtype as FloatDType, shape, at);
  }

  private floats(key: string): Float32Array {
    const stored = this.tensor(key);
    const values = floatsOf(stored);
    stored.free();
    return values;
  }

  /** m / ||W + s B A||, for each row of W. */
  factor(layer: LinearLayer, key: string): Tensor {
    const dense = denseValues(layer.weight);
    if (layer.lora) addAdapter(dense, layer.lora);
    const values = dense.toFloat32();
    dense.free();
    const magnitudes = this.floats(key);
    const width = values.length / magnitudes.length;
    const norm = (row: number) =>
      Math.sqrt(values.subarray(row * width, (row + 1) * width).reduce((sum, x) => sum + x * x, 0));
    return this.upload(
      magnitudes.map((m, row) => m / norm(row)),
      [magnitudes.length],
    );
  }

  table(module: SavedModule): Tensor | null {
    const key = this.folder.extras.saved.get(module);
    return key === undefined ? null : this.tensor(key);
  }

  /** A copy of the table with the rows that were trained. */
  withTokens(table: Tensor): Tensor | null {
    const { tokens } = this.folder.extras;
    if (tokens === null) return null;
    const values = floatsOf(table);
    const width = table.shape[1] ?? 0;
    const rows = this.floats(tokens.key);
    for (const [i, id] of tokens.indices.entries()) values.set(rows.subarray(i * width, (i + 1) * width), id * width);
    return this.upload(values, table.shape);
  }
}

/** What DoRA's magnitudes make of a module's rows; null: it has none. Whoever calls frees it. */
export function factorOf(folder: AdapterFolder, model: LlamaModel, module: string, lora: LoraLayer): Tensor | null {
  const key = folder.extras.magnitudes.get(module);
  const layer = key === undefined ? undefined : model.blocks.flatMap(linearsOf).find(({ name }) => name === module);
  return key === undefined || !layer ? null : new ExtrasReader(model, folder).factor({ ...layer, lora }, key);
}

/**
 * An adapter that will not be trained, with all that it brings. A tied head stays the base's when only the embedding
 * was saved, and follows rows that were trained, as in PEFT.
 */
export function loadWholeAdapter(folder: AdapterFolder, model: LlamaModel): Adapter {
  return freeOnThrow(() => {
    const adapter = loadAdapter(folder, model.embed.device, false);
    for (const [module, lora] of adapter.layers) lora.factor = factorOf(folder, model, module, lora);
    return { ...adapter, ...readTables(folder, model) };
  });
}

/** An adapter to train further: LoRA's matrices learn, an embedding and a head of its own stay as they are. */
export function loadTrainableAdapter(folder: AdapterFolder, model: LlamaModel, dtype: AdapterDType): Adapter {
  return freeOnThrow(() => {
    const adapter = loadAdapter(folder, model.embed.device, true, dtype);
    return { ...adapter, ...readTables(folder, model) };
  });
}

/** A tensor of an adapter that is its embedding or its head. */
export interface TableShape {
  dtype: FloatDType;
  shape: readonly number[];
}

/** What readTables makes, in shapes alone: the head is the embedding itself where it follows it. */
export function tableShapes(
  { file, extras }: AdapterFolder,
  base: LlamaConfig,
): Record<"embed" | "head", TableShape | null> {
  const saved = (module: SavedModule): TableShape | null => {
    const key = extras.saved.get(module);
    if (key === undefined) return null;
    const { dtype, shape } = file.info(key);
    return { dtype: dtype as FloatDType, shape };
  };
  const [embed, head] = [saved("embed_tokens"), saved("lm_head")];
  if (extras.tokens === null) return { embed, head };
  const shape = embed?.shape ?? [base.vocabSize, base.hiddenSize];
  const trained: TableShape = { dtype: "float32", shape };
  return { embed: trained, head: base.tieWordEmbeddings ? trained : head };
}

/** The embedding and the head of its own. Whoever calls frees them; they may be one. */
export function readTables(folder: AdapterFolder, model: LlamaModel): Pick<Adapter, "embed" | "head"> {
  return freeOnThrow(() => {
    const reader = new ExtrasReader(model, folder);
    const [embed, head] = [reader.table("embed_tokens"), reader.table("lm_head")];
    const trained = reader.withTokens(embed ?? model.embed);
    if (trained === null) return { embed, head };
    embed?.free();
    return { embed: trained, head: model.head.weight.data === model.embed ? trained : head };
  });
}

/** The model as the adapter has it: with its embedding and head, if it has any. Their owners stay who they were. */
export function withTables(model: LlamaModel, { embed, head }: Adapter): LlamaModel {
  if (embed === null && head === null) return model;
  const [table, out] = [embed ?? model.embed, head ?? model.head.weight.data];
  const config = { ...model.config, vocabSize: table.shape[0] ?? 0, tieWordEmbeddings: out === table };
  return { ...model, config, embed: table, head: { ...model.head, weight: denseWeight(out) } };
}
