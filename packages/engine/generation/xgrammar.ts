// The part of @mlc-ai/web-xgrammar that is used here, and how to load it. The package is XGrammar compiled to WebAssembly, in
// one file that says it is an ES module and is not one. Whatever it refuses ends its instance, with the reason on the
// console: so it is loaded as the CommonJS that it is, with a console of its own, anew after each refusal.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";
import { compileFunction, constants } from "node:vm";

interface Disposable {
  dispose(): void;
}
export type CompiledGrammar = Disposable;
export interface GrammarMatcher extends Disposable {
  acceptToken(id: number): boolean;
  getNextTokenBitmask(): Promise<Int32Array>;
  isTerminated(): boolean;
}
export interface GrammarCompiler extends Disposable {
  compileJSONSchema(schema: string, anyWhitespace: boolean, indent: number): Promise<CompiledGrammar>;
  compileBuiltinJSONGrammar(): Promise<CompiledGrammar>;
  compileGrammar(grammar: Disposable): Promise<CompiledGrammar>;
}
export interface XGrammar {
  Grammar: { fromStructuralTag(tag: object): Promise<Disposable> };
  GrammarCompiler: { createGrammarCompiler(tokens: Disposable, cacheEnabled: boolean): Promise<GrammarCompiler> };
  GrammarMatcher: { createGrammarMatcher(grammar: CompiledGrammar): Promise<GrammarMatcher> };
  TokenizerInfo: {
    createTokenizerInfo(
      vocabulary: readonly string[],
      kind: string,
      prependsSpace: boolean,
      vocabSize: number,
      stopIds: readonly number[],
    ): Promise<Disposable>;
  };
}

export interface LoadedXGrammar {
  library: XGrammar;
  /** What it said since it was asked last. */
  said(): string;
}

export function loadXGrammar(): LoadedXGrammar {
  const file = fileURLToPath(import.meta.resolve("@mlc-ai/web-xgrammar"));
  let text = "";
  const hear = (...words: unknown[]) => {
    text = `${text}${words.join(" ")}\n`.slice(-10_000);
  };
  const console = { log: hear, warn: hear, error: hear, info: hear };
  const exports: Partial<XGrammar> = {};
  const run = compileFunction(readFileSync(file, "utf8"), ["exports", "module", "require", "__filename", "console"], {
    filename: file,
    importModuleDynamically: constants.USE_MAIN_CONTEXT_DEFAULT_LOADER,
  });
  run(exports, { exports }, createRequire(file), file, console);
  const said = () => {
    const all = text;
    text = "";
    return all;
  };
  return { library: exports as XGrammar, said };
}
