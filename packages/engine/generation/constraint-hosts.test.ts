// Constraints in threads of their own: the same masks, and nobody waits for or falls with another's.
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { loadTokenizer } from "#packages/data";
import { goldenPath } from "../../../test/support/golden-model.ts";
import { adapterWithTokens } from "../../../test/support/models.ts";
import { ConstraintCompiler, type ConstraintForm } from "./constraint.ts";
import { ConstraintHosts } from "./constraint-hosts.ts";
import type { Vocabulary } from "./constraint-worker.ts";

const modelDir = goldenPath("llama_untied_nf4_dq");
const base: Vocabulary = { key: "", modelDir, adapterDir: null, vocabSize: 512, stopIds: [1] };
const never = new AbortController().signal;
const may = (mask: Int32Array | null, id: number) => ((mask![id >> 5]! >> (id & 31)) & 1) === 1;

describe("constraints in threads", () => {
  const hosts = new ConstraintHosts();
  after(() => hosts.close());
  const compile = (form: ConstraintForm, signal = never) => hosts.compile(base, form, signal);

  test("masks are those of the compiler, token by token", async () => {
    const tokenizer = loadTokenizer(modelDir);
    const form = { regex: "(yes|no), [0-9]+" };
    const here = await new ConstraintCompiler(tokenizer, base.vocabSize, base.stopIds).compile(form);
    const there = await compile(form);
    for (const id of tokenizer.encode("yes, 42", { addSpecialTokens: false })) {
      assert.deepEqual(there.mask, here.mask);
      assert.ok(may(there.mask, id));
      here.accept(id);
      there.accept(id);
      assert.equal(there.isReady, false);
      await Promise.all([here.ready(), there.ready()]);
      assert.equal(there.isReady, true);
    }
    assert.ok(may(there.mask, 1));
    here.free();
    there.free();
  });

  test("a form that is refused fails alone: those that run go on, also after more forms than are kept", async () => {
    const runs = await compile({ regex: "ab*" });
    const [a = 0] = loadTokenizer(modelDir).encode("a", { addSpecialTokens: false });
    const refused = Promise.all(
      ["a(?=b)", "(?<=a)b", "(?!a)b"].map((regex) => assert.rejects(compile({ regex }), { code: "INVALID_ARGUMENT" })),
    );
    await refused;
    for (let i = 0; i < 70; i++) (await compile({ regex: `a{${i + 1}}` })).free();
    runs.accept(a);
    await runs.ready();
    assert.ok(may(runs.mask, 1));
    (await compile({ regex: "ab*" })).free();
    runs.free();
  });

  test("a token that does not fit is its own failure", async () => {
    const one = await compile({ regex: "a" });
    one.accept(2);
    await one.ready();
    assert.throws(() => one.mask, { message: /token 2: expected one that fits/ });
    one.free();
  });

  test("whoever gives up is heard at once, and what takes too long is refused", async () => {
    const stop = new AbortController();
    const given = compile({ regex: "[a-z]{5}" }, stop.signal);
    stop.abort(new Error("gone"));
    await assert.rejects(given, /gone/);
    (await compile({ regex: "[a-z]{5}" })).free();
    const hasty = new ConstraintHosts(1);
    const late = hasty.compile(base, { regex: "a" }, never);
    await assert.rejects(late, { code: "INVALID_ARGUMENT", message: /compiles within 1 ms/ });
    hasty.close();
  });

  test("an adapter's own tokenizer says which tokens there are", async (t) => {
    const modelDir = goldenPath("llama_untied");
    const grown = { ...base, key: "grown", modelDir, adapterDir: adapterWithTokens(t), vocabSize: 515 };
    const form = { regex: "<three>" };
    const [own, plain] = await Promise.all([
      hosts.compile(grown, form, never),
      hosts.compile({ ...base, key: "plain", modelDir }, form, never),
    ]);
    assert.deepEqual([may(own.mask, 514), may(plain.mask, 514)], [true, false]);
    hosts.drop("grown");
    assert.throws(() => own.mask, { code: "CANCELLED" });
    plain.free();
  });

  test("a folder without a tokenizer is told", async () => {
    const none = { ...base, key: "none", modelDir: goldenPath("peft") };
    await assert.rejects(hosts.compile(none, { json: true }, never), { code: "NOT_FOUND" });
  });
});
