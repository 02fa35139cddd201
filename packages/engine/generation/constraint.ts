// What an answer's text must look like, as the tokens that may come next: JSON Schema, regular expression or any JSON, by
// XGrammar (arXiv:2411.15100).
import type { TextTokenizer } from "#packages/data";
import { NibbleError } from "#packages/errors";
import {
  type CompiledGrammar,
  type GrammarCompiler,
  type GrammarMatcher,
  type LoadedXGrammar,
  loadXGrammar,
} from "./xgrammar.ts";

const op = "constraint";

export type ConstraintForm = { jsonSchema: string } | { regex: string } | { json: true };

/**
 * Whether a token has a control character. JSON strings must not have any, which the library overlooks in strings of a
 * limited length; without free whitespace, there is none elsewhere. (Byte-level vocabularies spell byte b < 33 as U+0100 + b.)
 */
function hasControl(spelling: string, kind: string): boolean {
  if (kind === "byte_level") return /[\u0100-\u011f]/.test(spelling);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for.
  return /[\0-\x1f]/.test(spelling) || (kind === "byte_fallback" && /^<0x[01][0-9A-F]>$/.test(spelling));
}

/** Compiled forms that are kept, used last at the end: compiling takes a hundred times as long as starting anew. */
const grammarsMax = 64;

interface Instance extends LoadedXGrammar {
  compiler: GrammarCompiler;
  grammars: Map<string, CompiledGrammar>;
}

function refuse(what: string, reason: string): never {
  throw new NibbleError(`${what}: ${reason}`, { code: "INVALID_ARGUMENT", op });
}

/** What can be told without the library, and in words that people know. */
function check(form: ConstraintForm): void {
  try {
    if ("jsonSchema" in form) JSON.parse(form.jsonSchema);
    if ("regex" in form) new RegExp(form.regex, "u");
  } catch (thrown) {
    const reason = thrown instanceof Error ? thrown.message : String(thrown);
    refuse("jsonSchema" in form ? "json_schema" : "regex", `expected one, got what cannot be parsed: ${reason}`);
  }
}

/** The library's "[FATAL] file:line: Check failed: (…) is false: reason" without what only its authors need. */
function reasonOf(said: string): string {
  const line = said.split("\n").find((one) => one.includes("[FATAL]")) ?? said.trim();
  return line.replace(/^.*\[FATAL\] \S+ /, "").replace(/^Check failed: .* is false: /, "") || "not supported";
}

export class ConstraintCompiler {
  private readonly vocabulary: readonly string[];
  private readonly kind: string;
  /** Tokens with control characters. */
  private readonly controls: readonly number[];
  private readonly vocabSize: number;
  private readonly stopIds: readonly number[];
  private instance: Promise<Instance> | null = null;

  /**
   * @param vocabSize of the model: ids beyond the tokenizer's are never drawn.
   * @throws FAILED_PRECONDITION for a model without an end: an answer could not end where its text is complete.
   */
  constructor(tokenizer: TextTokenizer, vocabSize: number, stopIds: readonly number[]) {
    if (stopIds.length === 0) {
      const message = "constraint: expected a model with an end-of-sequence token, got one without";
      throw new NibbleError(message, { code: "FAILED_PRECONDITION", op });
    }
    // Special tokens are no text, whatever they look like.
    this.vocabulary = Array.from({ length: tokenizer.vocabSize }, (_, id) =>
      tokenizer.specialIds.has(id) ? "" : tokenizer.spellingOf(id),
    );
    this.kind = tokenizer.bytesIn;
    this.controls = this.vocabulary.flatMap((spelling, id) => (hasControl(spelling, this.kind) ? [id] : []));
    this.vocabSize = vocabSize;
    this.stopIds = stopIds;
  }

  private async open(): Promise<Instance> {
    const loaded = loadXGrammar();
    const { TokenizerInfo, GrammarCompiler } = loaded.library;
    const { vocabulary, kind, vocabSize, stopIds } = this;
    const info = await TokenizerInfo.createTokenizerInfo(vocabulary, kind, false, vocabSize, stopIds);
    // Its own cache has no bound.
    const compiler = await GrammarCompiler.createGrammarCompiler(info, false);
    return { ...loaded, compiler, grammars: new Map() };
  }

  /** @throws INVALID_ARGUMENT with what is not understood. */
  async compile(form: ConstraintForm): Promise<GrammarConstraint> {
    check(form);
    this.instance ??= this.open();
    const instance = await this.instance;
    try {
      instance.said();
      const grammar = await kept(instance, form);
      const matcher = await instance.library.GrammarMatcher.createGrammarMatcher(grammar);
      const constraint = new GrammarConstraint(matcher, this.vocabSize, "jsonSchema" in form ? this.controls : []);
      await constraint.ready();
      return constraint;
    } catch (thrown) {
      // Its memory may be in any state: those that run keep it, later ones get a new one.
      this.instance = null;
      const reason = reasonOf(instance.said()) || String(thrown);
      return refuse("jsonSchema" in form ? "json_schema" : "regex" in form ? "regex" : "json", reason);
    }
  }
}

async function kept(instance: Instance, form: ConstraintForm): Promise<CompiledGrammar> {
  const { grammars } = instance;
  const key = JSON.stringify(form);
  const grammar = grammars.get(key) ?? (await compiled(instance, form));
  grammars.delete(key);
  grammars.set(key, grammar);
  const [oldest] = grammars;
  if (grammars.size > grammarsMax && oldest) {
    grammars.delete(oldest[0]);
    // Matchers that run keep what they need of it.
    oldest[1].dispose();
  }
  return grammar;
}

async function compiled({ library, compiler }: Instance, form: ConstraintForm): Promise<CompiledGrammar> {
  // On one line, without free whitespace: small models like to fill answers with it.
  if ("jsonSchema" in form) return compiler.compileJSONSchema(form.jsonSchema, false, -1);
  if ("json" in form) return compiler.compileBuiltinJSONGrammar();
  const format = { type: "regex", pattern: form.regex };
  return compiler.compileGrammar(await library.Grammar.fromStructuralTag({ type: "structural_tag", format }));
}

export class GrammarConstraint {
  private readonly matcher: GrammarMatcher;
  private readonly vocabSize: number;
  private readonly never: readonly number[];
  private bits: Int32Array | null = null;
  private failure: unknown = null;

  /** @param never ids that do not fit, whatever the grammar says. */
  constructor(matcher: GrammarMatcher, vocabSize: number, never: readonly number[]) {
    this.matcher = matcher;
    this.vocabSize = vocabSize;
    this.never = never;
  }

  get mask(): Int32Array {
    if (this.failure !== null) throw NibbleError.from(this.failure, op);
    if (this.bits === null) throw new RangeError("[constraint] the mask is not ready");
    return this.bits;
  }

  accept(id: number): void {
    this.bits = null;
    if (this.matcher.acceptToken(id)) return;
    throw new NibbleError(`token ${id}: expected one that fits`, { code: "INTERNAL", op });
  }

  /** Never rejects: what fails is thrown by `mask`. */
  async ready(): Promise<void> {
    if (this.bits !== null || this.failure !== null || this.matcher.isTerminated()) return;
    try {
      const bits = await this.matcher.getNextTokenBitmask();
      // The last word has bits for tokens that do not exist.
      const used = this.vocabSize & 31;
      if (used !== 0) bits[bits.length - 1]! &= (1 << used) - 1;
      for (const id of this.never) bits[id >> 5]! &= ~(1 << (id & 31));
      this.bits = bits;
    } catch (thrown) {
      this.failure = thrown;
    }
  }

  free(): void {
    this.matcher.dispose();
  }
}
