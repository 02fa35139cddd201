// Model folders that tests make from the golden ones.
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import { fileURLToPath } from "node:url";
import {
  openAdapterFolder,
  openModelFolder,
  readModelConfig,
  type TensorToWrite,
  writeAdapterFolder,
  writeModelFolder,
} from "#packages/hub";
import { copyOfGolden, goldenPath, temporaryFolder } from "./folders.ts";

const quickstart = fileURLToPath(new URL("../../models/quickstart", import.meta.url));

/** The untied golden model with its first layer repeated: work that lasts long enough to be stopped. */
export async function deepModel(t: TestContext, layerCount: number): Promise<string> {
  const source = goldenPath("llama_untied");
  using folder = openModelFolder(source);
  function* groups(): Generator<TensorToWrite[]> {
    for (const name of folder.tensors.keys()) {
      const { dtype, shape } = folder.info(name);
      const bytes = folder.read(name);
      const [, rest] = /^model\.layers\.0\.(.+)$/.exec(name) ?? [];
      if (!name.startsWith("model.layers.")) yield [{ name, dtype, shape, bytes }];
      if (rest === undefined) continue;
      for (let i = 0; i < layerCount; i++) yield [{ name: `model.layers.${i}.${rest}`, dtype, shape, bytes }];
    }
  }
  const out = join(temporaryFolder(t), "deep");
  const card = { title: "deep", summary: "For a test.", figures: [], baseModel: "", tags: [] };
  const configChanges = { num_hidden_layers: layerCount };
  await writeModelFolder(out, { configText: folder.configText, configChanges, sourceFolder: source, card }, groups());
  return out;
}

/** A golden model that takes sequences of any length a test may want: answers that do not end by themselves in time. */
export function longModel(t: TestContext, positions: number): string {
  const folder = copyOfGolden(t, "llama_untied_nf4_dq");
  const file = join(folder, "config.json");
  const config = JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  writeFileSync(file, JSON.stringify({ ...config, max_position_embeddings: positions }));
  return folder;
}

/** The golden adapter again, made out as trained on the base with this digest. */
export function adapterOfBase(t: TestContext, baseDigest: string | null): string {
  const golden = openAdapterFolder(goldenPath("train", "qlora_adapter"));
  const out = join(temporaryFolder(t), "adapter");
  const { config: base } = readModelConfig(goldenPath("llama_untied_nf4_dq"));
  const [module = ""] = golden.modules.keys();
  writeAdapterFolder(out, {
    config: golden.config,
    base,
    baseDigest,
    dtype: golden.dtype(module, "lora_A"),
    card: { title: "adapter", summary: "For a test.", figures: [] },
    bytesOf: (name, matrix) => golden.read(name, matrix),
  });
  golden.close();
  return out;
}

/** golden peft/resized, which added three tokens to the 512 of llama_untied, with a tokenizer that has their texts. */
export function adapterWithTokens(t: TestContext): string {
  const folder = join(temporaryFolder(t), "adapter");
  cpSync(goldenPath("peft", "resized"), folder, { recursive: true });
  const file = join(goldenPath("llama_untied"), "tokenizer.json");
  const tokenizer = JSON.parse(readFileSync(file, "utf8")) as { added_tokens: object[] };
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: false };
  for (const [i, content] of ["<one>", "<two>", "<three>"].entries()) {
    tokenizer.added_tokens.push({ id: 512 + i, content, ...flags });
  }
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(tokenizer));
  cpSync(join(goldenPath("llama_untied"), "tokenizer_config.json"), join(folder, "tokenizer_config.json"));
  return folder;
}

/** As Hermes and Qwen write calls; otherwise like the quickstart's. */
const templateOfTools = `{% if tools %}<|user|>{% for tool in tools %}{{ tool['function']['name'] }} {% endfor %}{% endif %}
{%- for message in messages %}{% if message['role'] == 'assistant' %}<|assistant|> {{ message['content'] or '' }}
{%- for call in message['tool_calls'] or [] %}<tool_call>{"name": "{{ call['function']['name'] }}", "arguments": {{ call['function']['arguments'] | tojson }}}</tool_call>{% endfor %}</s>
{%- elif message['role'] == 'tool' %}<|user|>= {{ message['content'] }}{% else %}<|user|>{{ message['content'] }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}`;

/** The quickstart model with a chat template that knows tools. */
export function modelWithTools(t: TestContext): string {
  const folder = join(temporaryFolder(t), "model");
  cpSync(quickstart, folder, { recursive: true });
  writeFileSync(join(folder, "chat_template.jinja"), templateOfTools);
  return folder;
}
