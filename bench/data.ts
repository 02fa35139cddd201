// How fast rows become tokens, labels and a packing plan on one thread, and what memory that takes for a file and for
// one ten times as large: npm run bench:data [-- --peers-python PATH --megabytes 10 --runs 3]
// Rows are those of test/data, numbered so that no two are alike, each line a prompt and a completion, with the
// tokenizer of models/quickstart. The peer is Python's datasets + tokenizers on the same file with the same tokenizer,
// one process, no parallelism; it tokenizes and makes labels, and packs nothing. Figures are CPU time of the thread that
// does the work; the peer's are of its process.
import { once } from "node:events";
import { createWriteStream, mkdirSync, readFileSync, statSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { finished } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { youngGenerationMb } from "../packages/engine/host/engine.ts";
import { runJson } from "./harness/child.ts";
import { alternate, type Subject } from "./harness/compare.ts";

const root = fileURLToPath(new URL("..", import.meta.url));
const model = join(root, "models", "quickstart");
const folder = join(root, "build", "bench", "data");

const { values: options } = parseArgs({
  options: {
    "peers-python": { type: "string", default: process.env["NIBBLE_PEERS_PYTHON"] ?? "" },
    megabytes: { type: "string", default: "10" },
    runs: { type: "string", default: "3" },
    prepare: { type: "string" },
  },
});

/** Real answers with their questions, each as often as it takes; a number makes every row another. */
async function writeRows(file: string, bytes: number): Promise<void> {
  const lines = readFileSync(join(root, "test", "data", "samples", "openassistant.jsonl"), "utf8")
    .trim()
    .split("\n");
  const rows = lines.map((line) => JSON.parse(line) as { input: string; output: string });
  const out = createWriteStream(file);
  let written = 0;
  for (let i = 0; written < bytes; i++) {
    const { input = "", output = "" } = rows[i % rows.length] ?? {};
    const line = `${JSON.stringify({ prompt: `${i}. ${input}`, completion: output })}\n`;
    written += Buffer.byteLength(line);
    if (!out.write(line)) await once(out, "drain");
  }
  out.end();
  await finished(out);
}

/** In a process of its own: one line of JSON. */
async function prepare(file: string): Promise<void> {
  const { loadTokenizer, prepareData, TrainingSet } = await import("#packages/data");
  const tokenizer = loadTokenizer(model);
  const before = { cpu: process.threadCpuUsage(), all: process.cpuUsage(), rss: process.memoryUsage.rss() };
  const maxLength = 1024;
  const { signal } = new AbortController();
  const { store, report } = await prepareData(
    { data: file, format: "auto", tokenizer, examples: { maxLength } },
    { keep: { folder }, signal },
  );
  const read = process.threadCpuUsage(before.cpu);
  const { plan } = TrainingSet.whole(store, maxLength);
  const packed = process.threadCpuUsage(before.cpu);
  const seconds = ({ user, system }: NodeJS.CpuUsage) => (user + system) / 1e6;
  const facts = {
    rows: store.count,
    tokens: store.tokens,
    sequences: plan ? plan.starts.length - 1 : 0,
    findings: report.findings.map(({ problem, count }) => `${count} ${problem}`),
    tokensPerSecond: store.tokens / seconds(packed),
    tokenizingSeconds: seconds(read),
    packingSeconds: seconds(packed) - seconds(read),
    processSeconds: seconds(process.cpuUsage(before.all)),
    rssStart: before.rss,
    rssMax: process.resourceUsage().maxRSS * 1024,
  };
  store.close();
  process.stdout.write(`${JSON.stringify(facts)}\n`);
}

const mb = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;
/** As the engine's thread has it: semi-spaces of a third of the young generation. */
const space = `--max-semi-space-size=${youngGenerationMb / 3}`;
const ours = (file: string) =>
  runJson({
    file: process.execPath,
    args: [...process.execArgv, space, fileURLToPath(import.meta.url), "--prepare", file],
  });
const rateOf = async (facts: ReturnType<typeof ours>) => Number((await facts)["tokensPerSecond"]);

async function main(): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const small = join(folder, "rows.jsonl");
  const large = join(folder, "rows10.jsonl");
  const bytes = Number(options.megabytes) * 1e6;
  await writeRows(small, bytes);
  await writeRows(large, 10 * bytes);
  const python = options["peers-python"];
  const subjects: Subject[] = [{ name: "Nibble", measure: () => rateOf(ours(small)) }];
  if (python !== "") {
    const args = [join(root, "bench", "peers", "data.py"), join(model, "tokenizer.json"), small];
    const env = { TOKENIZERS_PARALLELISM: "false", HF_HUB_OFFLINE: "1" };
    subjects.push({ name: "datasets + tokenizers", measure: () => rateOf(runJson({ file: python, args, env })) });
  }
  const print = (text: string) => process.stdout.write(`${text}\n`);
  print(`${availableParallelism()} cores; ${mb(statSync(small).size)}, tokens a second of CPU time, one thread:`);
  const series = await alternate(subjects, Number(options.runs));
  for (const { name, median, values } of series) {
    print(`  ${name}: ${Math.round(median)} (${values.map(Math.round).join(", ")})`);
  }
  const [first, peer] = series;
  if (first && peer) print(`  ratio: ${(first.median / peer.median).toFixed(2)}`);
  for (const file of [small, large]) {
    const facts = await ours(file);
    print(`${mb(statSync(file).size)}: ${JSON.stringify(facts)}`);
    print(
      `  memory: ${mb(Number(facts["rssMax"]))} at most, ${mb(Number(facts["rssStart"]))} of it before the first row`,
    );
  }
}

if (options.prepare === undefined) await main();
else await prepare(options.prepare);
