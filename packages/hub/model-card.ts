// README.md of what we publish: the front matter that the Hugging Face Hub reads, and the figures that
// the caller measured. It measures nothing itself.
import { stringify } from "yaml";
import type { LoraConfig } from "./lora-config.ts";

export interface AdapterCard {
  title: string;
  /** One paragraph on what the adapter is for. */
  summary: string;
  /** Rows of the table of figures, in order: what was set and what was measured. */
  figures: readonly (readonly [name: string, value: string | number])[];
}

function frontMatter(fields: Record<string, unknown>): string {
  return `---\n${stringify(fields)}---\n`;
}

/** A cell: no line break or bar may end it early. */
function cell(value: string | number): string {
  return String(value)
    .replaceAll("|", "\\|")
    .replaceAll(/\s*\n\s*/g, " ");
}

function table(rows: AdapterCard["figures"]): string {
  if (rows.length === 0) return "";
  const lines = rows.map(([name, value]) => `| ${cell(name)} | ${cell(value)} |`);
  return `\n## Figures\n\n| | |\n|---|---|\n${lines.join("\n")}\n`;
}

export function printAdapterCard(adapter: {
  config: LoraConfig;
  baseDigest: string | null;
  card: AdapterCard;
}): string {
  const { config, card } = adapter;
  const targets = config.targetModules === "all-linear" ? "every linear layer" : config.targetModules.join(", ");
  const pin = adapter.baseDigest === null ? "" : `\nTrained on the base with digest \`${adapter.baseDigest}\`.\n`;
  const header = frontMatter({
    ...(config.baseModelNameOrPath ? { base_model: config.baseModelNameOrPath } : {}),
    library_name: "peft",
    pipeline_tag: "text-generation",
    tags: ["lora", "qlora", "nibble"],
  });
  const facts = `LoRA rank ${config.rank}, alpha ${config.alpha}, dropout ${config.dropout}, on ${targets}.`;
  return `${header}\n# ${card.title}\n\n${card.summary}\n\n${facts}\n${pin}${table(card.figures)}`;
}

export interface ModelCard extends AdapterCard {
  baseModel: string;
  tags: readonly string[];
}

export function printModelCard(card: ModelCard): string {
  const header = frontMatter({
    ...(card.baseModel ? { base_model: card.baseModel } : {}),
    library_name: "transformers",
    pipeline_tag: "text-generation",
    tags: [...card.tags],
  });
  return `${header}\n# ${card.title}\n\n${card.summary}\n${table(card.figures)}`;
}
