// The model card of what is pushed: the README's front matter, which the Hub indexes, completed with what the pusher says.
// What the README says already stays.
import { parse, stringify } from "yaml";
import { NibbleError } from "#packages/errors";

export interface CardFields {
  /** The base, as "org/name". */
  baseModel?: string;
  license?: string;
  datasets?: readonly string[];
  tags?: readonly string[];
  /** By name, for example { loss: 0.18 }. */
  metrics?: Readonly<Record<string, number>>;
}

type FrontMatter = Record<string, unknown>;

const fence = /^---\r?\n(.*?)\r?\n---\r?\n?/s;

/** The front matter, {} without one. @throws INVALID_ARGUMENT for one that is no YAML mapping. */
export function frontMatterOf(readme: string): FrontMatter {
  const [, text] = fence.exec(readme) ?? [];
  if (text === undefined) return {};
  const fail = (reason: string): never => {
    throw new NibbleError(`README.md: front matter: expected a YAML mapping: ${reason}`, {
      code: "INVALID_ARGUMENT",
      op: "push",
    });
  };
  try {
    const value: unknown = parse(text) ?? {};
    if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as FrontMatter;
  } catch (thrown) {
    return fail((thrown as Error).message);
  }
  return fail("got something else");
}

function listOf(value: unknown): string[] {
  return [value].flat().filter((one) => typeof one === "string");
}

function united(before: unknown, more: readonly string[]): string[] {
  return [...new Set([...listOf(before), ...more])];
}

/** Figures as the Hub shows them beside a model (model-index). */
function modelIndex(name: string, metrics: Readonly<Record<string, number>>, datasets: readonly string[]) {
  const dataset = datasets[0] ?? "held-out rows";
  const results = {
    task: { type: "text-generation" },
    dataset: { name: dataset, type: dataset },
    metrics: Object.entries(metrics).map(([type, value]) => ({ type, value })),
  };
  return [{ name, results: [results] }];
}

/** The README with its front matter completed; as it is where nothing is added. `name` is the model's in its figures. */
export function completedCard(readme: string, name: string, fields: CardFields): string {
  const { baseModel, license, datasets = [], tags = [], metrics = {} } = fields;
  const before = frontMatterOf(readme);
  const after: FrontMatter = { ...before };
  if (baseModel !== undefined) after["base_model"] = baseModel;
  if (license !== undefined) after["license"] = license;
  if (datasets.length > 0) after["datasets"] = united(before["datasets"], datasets);
  if (tags.length > 0) after["tags"] = united(before["tags"], tags);
  if (Object.keys(metrics).length > 0) {
    after["metrics"] = united(before["metrics"], Object.keys(metrics));
    after["model-index"] = modelIndex(name, metrics, listOf(after["datasets"]));
  }
  if (JSON.stringify(after) === JSON.stringify(before)) return readme;
  const body = readme.replace(fence, "");
  return `---\n${stringify(after)}---\n${body === "" ? `\n# ${name}\n` : body}`;
}
