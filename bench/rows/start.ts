// From the start of a process to its first token, of a pre-quantized folder in the page cache.
import { secondsToFirstByte } from "../harness/child.ts";
import { compare, type Result } from "../harness/row.ts";
import { ours, type Setting } from "../harness/setting.ts";

const peerName = "node-llama-cpp";

export async function measureStart(setting: Setting): Promise<Result[]> {
  const notes: string[] = [];
  const threads = String(setting.threads);
  const command = ours("first-token.ts", [await setting.models.quantized(), threads]);
  const subjects = [{ name: "Nibble", measure: () => secondsToFirstByte(command) }];
  const gguf = await setting.models.gguf(notes);
  const peer = gguf === null ? { note: "" } : setting.peers.nodeLlamaScript("first_token.mjs", [gguf, threads]);
  if ("command" in peer) subjects.push({ name: peerName, measure: () => secondsToFirstByte(peer.command) });
  else if (peer.note !== "") notes.push(peer.note);
  for (const { measure } of subjects) await measure(); // the files and programs are in the page cache from here on
  const goals = [{ text: `≤ 1.0 × ${peerName}`, beside: peerName, needed: 1 }];
  const what = "process start to first token, pre-quantized, page cache warm";
  return [await compare({ what, unit: "s", lessIsBetter: true, subjects, goals, notes }, setting.runs)];
}
