// Model folders that tests make from the golden ones.
import { join } from "node:path";
import type { TestContext } from "node:test";
import { openModelFolder, type TensorToWrite, writeModelFolder } from "#packages/hub";
import { goldenPath, temporaryFolder } from "./folders.ts";

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
