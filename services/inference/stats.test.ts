// Requests by adapter: counted while they run, and kept for no more adapters than a process can hold for ever.
import assert from "node:assert/strict";
import { test } from "node:test";
import { RequestCounts } from "./stats.ts";

test("of adapters without end, those asked for last and those with requests under way have figures", () => {
  const counts = new RequestCounts(3);
  const end = counts.begin("held", "adapters/held/versions/1");
  counts.begin("", "")();
  for (let i = 0; i < 1000; i++) {
    counts.begin(`bot-v${i}`, `adapters/bot/versions/${i}`)();
    counts.begin("", "")();
  }
  const figures = () => counts.list().map(({ adapterId, total, running }) => [adapterId, total, running]);
  assert.deepEqual(figures(), [
    ["held", 1, 1],
    ["bot-v999", 1, 0],
    ["", 1001, 0],
  ]);
  end();
  counts.begin("new", "")();
  assert.deepEqual(figures(), [
    ["bot-v999", 1, 0],
    ["", 1001, 0],
    ["new", 1, 0],
  ]);
});
