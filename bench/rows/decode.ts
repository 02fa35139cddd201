// Inference over the 4-bit base: decoding beside llama.cpp and beside what memory allows, prefill, many sequences.
import { alternate, seriesOf } from "../harness/compare.ts";
import { compare, judge, type Result } from "../harness/row.ts";
import { figure, ours, type Pick, peerFigure, type Setting } from "../harness/setting.ts";

const newTokens = "64";
const throughNode = "llama.cpp Q4_0 through node-llama-cpp";
const throughC = "llama.cpp Q4_0 through its C API";

/** tokens/s that bench/decode.ts prints for "decode 1", "prefill 128", … */
const rateOf =
  (what: string): Pick =>
  (printed) =>
    (printed["results"] as { what: string; tokensPerSecond: number }[]).find((r) => r.what === what)?.tokensPerSecond;

async function own(setting: Setting, prompt: string, batch: string, what: string, all: Record<string, unknown>[] = []) {
  const args = ["--model", await setting.models.quantized(), "--threads", String(setting.threads), "--runs", "1"];
  const given = [...args, "--prompt", prompt, "--batch", batch, "--new", newTokens, "--json"];
  return figure("Nibble", ours("decode.ts", given), rateOf(what), all);
}

async function llamas(setting: Setting, prompt: string, fresh: string, key: string, notes: string[]) {
  const gguf = await setting.models.gguf(notes);
  if (gguf === null) return [];
  const args = [gguf, prompt, fresh, String(setting.threads)];
  const node = setting.peers.nodeLlamaScript("llama_node.mjs", args);
  const c = setting.peers.pythonScript("llama-cpp-python", ["llama-cpp-python"], "llama_c.py", args);
  return [...peerFigure(throughNode, node, key, { notes }), ...peerFigure(throughC, c, key, { notes })];
}

export async function measureDecode(setting: Setting): Promise<Result[]> {
  const notes: string[] = [];
  const all: Record<string, unknown>[] = [];
  const peers = await llamas(setting, "128", newTokens, "decode_tokens_per_s", notes);
  const series = await alternate([await own(setting, "", "1", "decode 1", all), ...peers], setting.runs);
  const bound = "bandwidth bound";
  const values = all.map((printed) => Number(printed["boundTokensPerSecond"]));
  series.push(seriesOf(bound, values));
  const bytes = Number(all[0]?.["bytesOfStep"]) / 1e6;
  notes.push(
    `bandwidth bound: bytes of the weights that a token reads (${bytes.toFixed(1)} MB) at a stream copy's rate`,
  );
  const goals = [
    { text: "≥ 2 × llama.cpp through node-llama-cpp", beside: throughNode, needed: 2 },
    { text: "≥ 1.0 × llama.cpp's C API", beside: throughC, needed: 1 },
    { text: "≥ 40 % of the bandwidth bound", beside: bound, needed: 0.4 },
  ];
  return [judge({ what: "4-bit decode, batch 1, after 128 tokens", unit: "tokens/s", goals, notes }, series)];
}

export async function measurePrefill(setting: Setting): Promise<Result[]> {
  const results: Result[] = [];
  for (const prompt of ["128", "1024"]) {
    const notes: string[] = [];
    const peers = await llamas(setting, prompt, "1", "prefill_tokens_per_s", notes);
    const subjects = [await own(setting, prompt, "", `prefill ${prompt}`), ...peers];
    const goals = [
      { text: "≥ 1.0 × llama.cpp through node-llama-cpp", beside: throughNode, needed: 1 },
      { text: "≥ 1.0 × llama.cpp's C API", beside: throughC, needed: 1 },
    ];
    const what = `4-bit prefill, ${prompt} tokens`;
    results.push(await compare({ what, unit: "tokens/s", subjects, goals, notes }, setting.runs));
  }
  return results;
}

export async function measureBatch(setting: Setting): Promise<Result[]> {
  const many = { ...(await own(setting, "", "16", "decode 16")), name: "16 sequences" };
  const one = { ...(await own(setting, "", "1", "decode 1")), name: "1 sequence" };
  const goals = [{ text: "≥ 4 × batch 1", beside: one.name, needed: 4 }];
  const what = "4-bit decode, 16 sequences on one base";
  return [await compare({ what, unit: "tokens/s", subjects: [many, one], goals }, setting.runs)];
}
