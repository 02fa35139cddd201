// Room for adapters under a budget: who goes, who is waited for, who is refused.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { AdapterRoom, type Resident } from "./adapter-room.ts";

const never = new AbortController().signal;

/** Adapters a, b, … of 10 bytes each in a room, last used in this order. */
function roomOf(bytesMax: number, count: number) {
  const freed: string[] = [];
  const room = new AdapterRoom(bytesMax, async (id) => {
    await turn();
    return freed.push(id);
  });
  const all = Array.from({ length: count }, (_, i): Resident => {
    const place = { engineId: String.fromCharCode(97 + i), bytes: 10, loadMs: i, lastUseMs: null };
    return { ...place, pinned: false, users: 0, isLeaving: false, makesWay: false };
  });
  for (const one of all) room.add(one);
  return { room, freed, all };
}

test("idle ones go, used longest ago first, and no more than are needed", async () => {
  const { room, freed, all } = roomOf(30, 3);
  all[0]!.lastUseMs = 100;
  await room.make(15, never);
  assert.deepEqual([freed, room.bytes], [["b", "c"], 10]);
});

test("one in use is waited for, and another that becomes free first will do", async () => {
  const { room, freed, all } = roomOf(20, 2);
  const [a, b] = all as [Resident, Resident];
  a.users = b.users = 1;
  const made = room.make(10, never);
  await turn();
  assert.deepEqual([a.makesWay, b.makesWay, freed], [true, false, []]);
  b.users = 0;
  room.tell();
  await made;
  assert.deepEqual([freed, a.makesWay], [["b"], false]);
});

test("one that becomes free while another is being dropped is not missed", async () => {
  const { room, freed, all } = roomOf(20, 2);
  const [a, b] = all as [Resident, Resident];
  b.users = 1;
  const made = room.make(20, never);
  b.users = 0;
  room.tell();
  await made;
  assert.deepEqual([freed, a.engineId, b.engineId], [["a", "b"], null, null]);
});

test("one that leaves by itself counts as room that comes", async () => {
  const { room, all } = roomOf(20, 2);
  const [a, b] = all as [Resident, Resident];
  a.users = b.users = 1;
  b.isLeaving = true;
  const made = room.make(10, never);
  await turn();
  assert.equal(a.makesWay, false);
  b.users = 0;
  await room.drop(b);
  await made;
});

test("whoever stops waiting leaves no marks; what cannot fit is refused at once", async () => {
  const { room, all } = roomOf(20, 2);
  for (const one of all) one.users = 1;
  const stop = new AbortController();
  const made = room.make(10, stop.signal);
  await turn();
  stop.abort(new Error("gone"));
  await assert.rejects(made, /gone/);
  assert.deepEqual(
    all.map((one) => one.makesWay),
    [false, false],
  );
  await assert.rejects(room.make(21, never), {
    code: "RESOURCE_EXHAUSTED",
    details: { quota: "bytes of adapters", limit: "20" },
  });
  all[0]!.pinned = true;
  await assert.rejects(room.make(11, never), { message: /beside 10 that are pinned/ });
});
