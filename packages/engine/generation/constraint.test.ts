import assert from "node:assert/strict";
import { before, describe, test } from "node:test";
import fc from "fast-check";
import { loadTokenizer, type TextTokenizer } from "#packages/data";
import { goldenPath } from "../../../test/support/golden-model.ts";
import { ConstraintCompiler, type ConstraintForm } from "./constraint.ts";

/** The golden model has more ids than its tokenizer. */
const vocabSize = 517;

describe("a constraint", () => {
  let tokenizer: TextTokenizer;
  let compiler: ConstraintCompiler;
  before(() => {
    tokenizer = loadTokenizer(goldenPath("llama_untied_nf4_dq"));
    compiler = new ConstraintCompiler(tokenizer, vocabSize, [1]);
  });

  /** The text of tokens drawn by `choose` from those that may come; null when it did not end by itself. */
  async function drawn(
    form: ConstraintForm,
    choose: (count: number) => number,
    tokensMax = 200,
  ): Promise<string | null> {
    const constraint = await compiler.compile(form);
    const ids: number[] = [];
    try {
      while (ids.length < tokensMax) {
        await constraint.ready();
        const may = Array.from({ length: vocabSize }, (_, id) => id).filter(
          (id) => ((constraint.mask[id >> 5]! >> (id & 31)) & 1) === 1,
        );
        assert.ok(may.length > 0);
        assert.equal(constraint.mask.length, Math.ceil(vocabSize / 32));
        const id = may[choose(may.length)]!;
        assert.ok(id === 1 || !tokenizer.specialIds.has(id));
        if (id === 1) return tokenizer.decode(ids);
        ids.push(id);
        constraint.accept(id);
      }
      return null;
    } finally {
      constraint.free();
    }
  }

  const walk = (seed: number) => {
    let state = seed + 1;
    return (count: number) => {
      state = (state * 48271) % 2147483647;
      return state % count;
    };
  };

  test("whatever is drawn, a text that ends matches the regular expression", async () => {
    const patterns = ["[a-c]{2,4}(é|x)+", "(yes|no)", "\\d{3}-\\d{4}", ".{1,5}"];
    const run = fc.asyncProperty(fc.constantFrom(...patterns), fc.nat(1e6), async (regex, seed) => {
      const text = await drawn({ regex }, walk(seed));
      if (text !== null) assert.match(text, new RegExp(`^(?:${regex})$`, "us"));
    });
    await fc.assert(run, { numRuns: 40, seed: 3 });
  });

  test("whatever is drawn, a text that ends is JSON of the schema", async () => {
    const properties = { name: { type: "string", maxLength: 8 }, kind: { enum: ["a", "b"] }, age: { type: "integer" } };
    const jsonSchema = JSON.stringify({ type: "object", properties, required: ["name", "kind"] });
    let ended = 0;
    for (let seed = 0; seed < 12; seed++) {
      const text = await drawn({ jsonSchema }, walk(seed));
      if (text === null) continue;
      ended++;
      const { name, kind, age, ...more } = JSON.parse(text);
      assert.deepEqual([typeof name, ["a", "b"].includes(kind), more], ["string", true, {}]);
      assert.ok(age === undefined || Number.isInteger(age));
    }
    assert.ok(ended > 3, `${ended} ended`);
  });

  test("what cannot be a constraint is refused with the reason, and the next one works", async () => {
    const refused = async (form: ConstraintForm, message: RegExp) =>
      assert.rejects(compiler.compile(form), { code: "INVALID_ARGUMENT", message });
    await refused({ jsonSchema: "{" }, /json_schema: .*JSON/);
    await refused(
      { jsonSchema: '{"properties":{"a":{"$ref":"#/x"}},"type":"object"}' },
      /json_schema: .*Cannot find field x/,
    );
    await refused({ regex: "(" }, /regex: .*Unterminated group/);
    await refused({ regex: "a(?=b)" }, /regex: .*Lookahead is not supported/);
    assert.equal(await drawn({ regex: "(ab|ac)" }, () => 0), "ab");
    assert.throws(() => new ConstraintCompiler(tokenizer, vocabSize, []), { code: "FAILED_PRECONDITION" });
  });
});
