// The folders and files that rows read, made once under build/bench.
import { existsSync, mkdirSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { quantizeModel } from "../../packages/engine/quantize-model.ts";
import { defaultQuant } from "../../packages/engine/quantize-tensor.ts";
import { makeModel } from "../make-model.ts";
import { runJson } from "./child.ts";
import type { Peers } from "./peers.ts";

const cache = fileURLToPath(new URL("../../build/bench", import.meta.url));

export class Models {
  private readonly options: { model: string | null; gguf: string | null; peers: Peers };

  constructor(options: { model: string | null; gguf: string | null; peers: Peers }) {
    this.options = options;
  }

  /** A 16-bit folder: the one that was asked for, or random weights in SmolLM2-135M's shape. */
  plain(): string {
    if (this.options.model !== null) return this.options.model;
    const folder = join(cache, "random-135m");
    if (!existsSync(folder)) makeModel("135m", folder);
    return folder;
  }

  /** The same in 4 bits: NF4, blocks of 64, double quantized. */
  async quantized(): Promise<string> {
    const folder = join(cache, `${basename(this.plain())}-nf4`);
    mkdirSync(cache, { recursive: true });
    if (!existsSync(folder)) await quantizeModel({ modelDir: this.plain(), outDir: folder, quant: defaultQuant });
    return folder;
  }

  /** The same for llama.cpp: Q4_0 linear layers, Q8_0 embedding. Null, with a note, where gguf is not installed. */
  async gguf(notes: string[]): Promise<string | null> {
    if (this.options.gguf !== null) return this.options.gguf;
    const file = join(cache, `${basename(this.plain())}-q4_0.gguf`);
    if (existsSync(file)) return file;
    const needed = ["gguf", "numpy", "torch", "safetensors"];
    const made = this.options.peers.pythonScript("gguf", needed, "make_gguf.py", [this.plain(), file]);
    if ("command" in made) {
      await runJson(made.command);
      return file;
    }
    notes.push(made.note);
    return null;
  }
}
