// Decoding steps on a card as recorded graphs: a step of a token a sequence is some hundred launches of a few microseconds
// each, and one call when it is replayed. What changes from step to step (ids, positions, slots, tables of pages) lies in
// tensors that stay and is written before the replay; what is recorded is who multiplies with what: so many rows, a table
// of such a width, these adapters on those rows. A step that is seen for the first time runs plainly in the graphs' memory,
// is recorded the second time and replayed from then on. Other steps, and all of them where recording fails, run plainly.
import { DeviceGraphs, linearForward, Tensor } from "#native";
import { getOrMake } from "../get-or-make.ts";
import { denseWeight } from "../model-load.ts";
import type { LlamaModel } from "../models/llama.ts";
import { Tape, type TapeOptions } from "../tape.ts";
import type { KvCache } from "./kv-cache.ts";
import type { ServedAdapter } from "./served-adapter.ts";
import { hiddenStates } from "./step.ts";
import { headInput, StepLogits, type TableRun } from "./step-logits.ts";
import {
  emptyRows,
  freeRows,
  layOut,
  padded,
  type Share,
  type StepRows,
  type StepTensors,
  writeRows,
} from "./step-rows.ts";

/** Graphs that are kept; the one that was used longest ago goes first. */
const graphsMax = 16;

interface Entry {
  /** 0: seen once, not recorded. */
  graph: number;
  adapters: readonly ServedAdapter[];
}

export class StepGraphs {
  private readonly model: LlamaModel;
  private readonly cache: KvCache;
  private readonly place: Pick<TapeOptions, "device" | "dtype">;
  private readonly graphs: DeviceGraphs;
  private readonly entries = new Map<string, Entry>();
  /** By rows and width of the table. */
  private readonly inputs = new Map<string, StepTensors>();
  /** float32 [rows, V], by both. */
  private readonly logits = new Map<string, Tensor>();
  private readonly ids = new WeakMap<ServedAdapter, number>();
  private adaptersSeen = 0;
  /** Since the beginning. */
  readonly counts = { recorded: 0, replayed: 0, forgotten: 0 };

  constructor(model: LlamaModel, cache: KvCache, { device, dtype }: Pick<TapeOptions, "device" | "dtype">) {
    this.model = model;
    this.cache = cache;
    this.place = { device, dtype };
    this.graphs = new DeviceGraphs(device);
  }

  /** Logits of a step of one token a sequence, all with one embedding and head; null for any other step. free() leaves them. */
  forward(shares: readonly Share[]): StepLogits | null {
    if (shares.some(({ count, outputs }) => count !== 1 || outputs !== 1)) return null;
    const rows = padded(layOut(this.model, shares));
    const [run, ...others] = rows.runs;
    if (!run || others.length > 0) return null;
    const tensors = this.inputsOf(rows);
    writeRows(tensors, rows);
    const logits = this.logitsOf(rows.ids.length, run.head.shape[0] ?? 0);
    this.launch(rows, run, () => this.compute(tensors, rows, run, logits));
    const all = new StepLogits(false);
    all.add(run, logits);
    return all;
  }

  private launch(rows: StepRows, run: TableRun, step: () => void): void {
    const key = this.keyOf(rows, run);
    const known = this.entries.get(key);
    const entry = known ?? { graph: 0, adapters: rows.segments.map((s) => s.adapter) };
    this.entries.delete(key);
    this.entries.set(key, entry);
    if (!known) {
      this.graphs.run(step);
      this.dropOldest();
      return;
    }
    if (entry.graph === 0) {
      entry.graph = this.graphs.record(step);
      this.counts.recorded++;
    }
    this.graphs.replay(entry.graph);
    this.counts.replayed++;
  }

  /** All that is recorded: addresses that stay need no place in it, those that do not must have one. */
  private keyOf({ ids, width, segments }: StepRows, { embed, head }: TableRun): string {
    const adapters = segments.map(({ adapter, begin, end }) => `${this.idOf(adapter)}:${begin}-${end}`);
    return [ids.length, width, embed.handle, head.handle, ...adapters].join(" ");
  }

  private idOf(adapter: ServedAdapter): number {
    const id = this.ids.get(adapter) ?? ++this.adaptersSeen;
    this.ids.set(adapter, id);
    return id;
  }

  private compute(tensors: StepTensors, rows: StepRows, { head }: TableRun, logits: Tensor): void {
    const { model, cache } = this;
    using tape = new Tape({ ...this.place, recording: false });
    const hidden = hiddenStates(tape, { model, cache }, tensors, rows);
    const x = headInput(tape, model, hidden);
    linearForward({ x, w: denseWeight(head), bias: null, lora: null, h: null, y: logits });
  }

  private inputsOf(rows: StepRows): StepTensors {
    const make = () => emptyRows(rows, this.place.device);
    return getOrMake(this.inputs, `${rows.ids.length} ${rows.width}`, make);
  }

  private logitsOf(rows: number, vocabulary: number): Tensor {
    const at = { device: this.place.device, kind: "activations" } as const;
    return getOrMake(this.logits, `${rows} ${vocabulary}`, () => Tensor.empty("float32", [rows, vocabulary], at));
  }

  /** Must be called before the adapter is freed: what was recorded with it is of no use any more. */
  forget(adapter: ServedAdapter): void {
    for (const [key, { adapters }] of this.entries) if (adapters.includes(adapter)) this.drop(key);
  }

  private dropOldest(): void {
    const [oldest] = this.entries.keys();
    if (this.entries.size > graphsMax && oldest !== undefined) this.drop(oldest);
  }

  private drop(key: string): void {
    const graph = this.entries.get(key)?.graph ?? 0;
    this.entries.delete(key);
    if (graph === 0) return;
    this.graphs.forget(graph);
    this.counts.forgotten++;
  }

  free(): void {
    this.graphs.free();
    for (const t of this.inputs.values()) freeRows(t);
    for (const t of this.logits.values()) t.free();
  }
}
