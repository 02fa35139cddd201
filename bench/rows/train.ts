// A QLoRA step of the 135M shape beside transformers + PEFT + bitsandbytes, and packed rows beside padded ones.
import { alternate, type Subject, seriesOf } from "../harness/compare.ts";
import { compare, judge, type Result } from "../harness/row.ts";
import { figure, ours, peerFigure, type Setting } from "../harness/setting.ts";

const [batch, seq, rank] = ["4", "256", "16"];
const peerName = "PEFT + bitsandbytes";
const peerPackages = ["torch", "transformers", "peft", "bitsandbytes", "safetensors"];

/** The peer in its better dtype, found by one run of each. */
async function peerOf(
  setting: Setting,
  notes: string[],
  all: Record<string, unknown>[],
  env: Record<string, string>,
): Promise<Subject[]> {
  const args = ["--batch", batch, "--seq", seq, "--rank", rank, "--threads", String(setting.threads)];
  const candidates = ["float32", "bfloat16"].flatMap((dtype) => {
    const given = [setting.models.plain(), ...args, "--dtype", dtype];
    const peer = setting.peers.pythonScript(peerName, peerPackages, "train_step.py", given, env);
    return peerFigure(peerName, peer, "tokens_per_s", { notes, all }).map((subject) => ({ dtype, subject }));
  });
  const tried = [];
  for (const candidate of candidates) tried.push({ ...candidate, rate: await candidate.subject.measure() });
  const better = tried.sort((a, b) => b.rate - a.rate)[0];
  all.length = 0;
  if (better === undefined) return [];
  const rates = tried.map(({ dtype, rate }) => `${dtype} ${rate.toFixed(1)}`).join(", ");
  notes.push(`${peerName} once in each dtype: ${rates} tokens/s; ${better.dtype} is measured in turn`);
  return [better.subject];
}

/** What holds PyTorch, oneDNN and MKL to AVX2 on a machine that has more. */
const avx2Peer = { ATEN_CPU_CAPABILITY: "avx2", ONEDNN_MAX_CPU_ISA: "AVX2", MKL_ENABLE_INSTRUCTIONS: "AVX2" };

export const measureTrain = (setting: Setting): Promise<Result[]> => measureStep(setting, { args: [], env: {} });

/** Both held to AVX2: what a machine without AVX-512 would say, as far as this one can. */
export const measureTrainAvx2 = (setting: Setting): Promise<Result[]> =>
  measureStep(setting, { args: ["--isa", "avx2"], env: avx2Peer });

interface Held {
  /** For our script. */
  args: readonly string[];
  /** For the peer's. */
  env: Record<string, string>;
}

async function measureStep(setting: Setting, held: Held): Promise<Result[]> {
  const notes: string[] = [];
  const [mine, theirs]: Record<string, unknown>[][] = [[], []];
  const args = ["--batch", batch, "--seq", seq, "--rank", rank, "--threads", String(setting.threads), "--json"];
  const own = ours("train-step.ts", [setting.models.plain(), ...args, ...held.args]);
  const peer = await peerOf(setting, notes, theirs ?? [], held.env);
  const series = await alternate([figure("Nibble", own, "tokens_per_s", mine), ...peer], setting.runs);
  const isa = String(mine?.[0]?.["isa"]);
  const what = `QLoRA step, batch ${batch} × ${seq}, r ${rank} on all linear layers, gradient checkpointing, ${isa}`;
  const needed = isa === "avx512_bf16" ? 3 : 2.2;
  const goal = { text: `≥ ${needed} × ${peerName}`, beside: peerName, needed };
  const rates = judge({ what, unit: "tokens/s", goals: [goal], notes }, series);
  const peaks = [mine ?? [], theirs ?? []].map((all) => all.map((printed) => Number(printed["peak_rss"]) / 2 ** 20));
  const peakSeries = series.map(({ name }, i) => seriesOf(name, peaks[i] ?? []));
  const memoryGoal = { text: `≤ 40 % of ${peerName}`, beside: peerName, needed: 1 / 0.4 };
  const memory = { what: `${what}: peak resident memory`, unit: "MiB", lessIsBetter: true, goals: [memoryGoal] };
  return [rates, judge(memory, peakSeries)];
}

/** 16 lengths, log-uniform between 32 and 512: short answers are many, long ones few. */
const mixedLengths = Array.from({ length: 16 }, (_, i) => Math.round(32 * 16 ** ((((i * 7) % 16) + 0.5) / 16)));

export function measurePacked(setting: Setting): Promise<Result[]> {
  const args = [setting.models.plain(), "--lengths", mixedLengths.join(","), "--rank", rank, "--steps", "2", "--json"];
  const threads = ["--threads", String(setting.threads)];
  const packed = figure("packed", ours("train-step.ts", [...args, ...threads]), "tokens_per_s");
  const padded = figure("padded", ours("train-step.ts", [...args, ...threads, "--padded"]), "tokens_per_s");
  const total = mixedLengths.reduce((sum, n) => sum + n, 0);
  const longest = Math.max(...mixedLengths);
  const comparison = {
    what: `QLoRA step, 16 rows of mixed length (log-uniform 32 … 512, ${total} tokens), packed`,
    unit: "trained tokens/s",
    subjects: [packed, padded],
    goals: [{ text: "≥ 2 × padded", beside: "padded", needed: 2 }],
    notes: [`padded to ${longest}: ${16 * longest} rows for ${total} tokens, ${((16 * longest) / total).toFixed(2)} ×`],
  };
  return compare(comparison, setting.runs).then((result) => [result]);
}
