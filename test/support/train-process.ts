// One training job in a process of its own, for tests of what a process takes: `node train-process.ts RECIPE_JSON`. It
// prints one JSON object: what the process had taken before, the report or the error, and the most that it took.
import { readFileSync } from "node:fs";
import { parseRecipe } from "#packages/data";
import { NibbleError } from "#packages/errors";
import { kilobytes } from "../../packages/engine/available-memory.ts";
import { quoteTrainJob } from "../../packages/engine/quote.ts";
import { runTrainJob } from "../../packages/engine/train-job.ts";

const statusOf = (key: string): number => kilobytes(readFileSync("/proc/self/status", "utf8"), key);

const recipe = parseRecipe({ flags: JSON.parse(process.argv[2] ?? "{}") });
const { signal } = new AbortController();
// Also what starts the threads, so that their stacks are there before anything is measured.
const quote = await quoteTrainJob({ recipe, hasRows: true, evalFile: null, device: "cpu" }, signal);
const before = { data: statusOf("VmData"), rss: statusOf("VmRSS") };
const facts: Record<string, unknown> = { quote, before };
try {
  const job = { recipe, evalFile: null, evalSteps: 0, device: "cpu" } as const;
  facts["report"] = await runTrainJob(job, { signal, onEvent: () => {} });
} catch (thrown) {
  const { code, message, details } = NibbleError.from(thrown, "train");
  facts["error"] = { code, message, details };
}
process.stdout.write(JSON.stringify({ ...facts, rssMax: statusOf("VmHWM") }));
