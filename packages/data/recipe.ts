// A training recipe: defaults, then recipe.yaml, then flags, each over the one before, checked once into
// one typed object. A key that nothing knows is an error with the nearest name that is known.
import { readFileSync } from "node:fs";
import { parseDocument, stringify } from "yaml";
import { NibbleError } from "#packages/errors";
import { type RecipeField, recipeFields, type TrainRecipe, yamlKey } from "./recipe-fields.ts";

const op = "recipe";

export interface RecipeSources {
  /** recipe.yaml, as text and with the name to call it by. */
  yaml?: { text: string; file: string };
  /** Only what the caller gave: a flag's own default would hide the recipe's. Keys as in TrainRecipe. */
  flags?: Readonly<Record<string, unknown>>;
  /** Required fields that may be missing, for callers that need no more than the rest; they are then "". */
  optional?: readonly (keyof TrainRecipe)[];
}

/** `key` is the field of TrainRecipe that is wrong, for callers that have names of their own for them. */
function fail(where: string, message: string, key?: string): never {
  const details = { where, ...(key === undefined ? {} : { key }) };
  throw new NibbleError(`${where}: ${message}`, { code: "INVALID_ARGUMENT", op, details });
}

export function readRecipe(options: Omit<RecipeSources, "yaml"> & { file?: string }): TrainRecipe {
  const { file, ...rest } = options;
  if (file === undefined) return parseRecipe(rest);
  return parseRecipe({ yaml: { text: readText(file), file }, ...rest });
}

function readText(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (thrown) {
    const { code, reason } = NibbleError.from(thrown, op);
    throw new NibbleError(`${file}: expected a recipe to read: ${reason}`, { code, op, cause: thrown });
  }
}

export function parseRecipe({ yaml, flags = {}, optional = [] }: RecipeSources): TrainRecipe {
  const recipe: Record<string, unknown> = {};
  for (const { key, fallback } of recipeFields) if (fallback !== undefined) recipe[key] = fallback;
  const given = new Map<string, string>();
  const take = (values: Readonly<Record<string, unknown>>, spell: (key: string) => string, where: string) => {
    for (const [name, value] of Object.entries(values)) {
      const field = recipeFields.find(({ key }) => spell(key) === name) ?? unknownKey(name, spell, where);
      if (value === undefined) continue;
      recipe[field.key] = checked(field, value, where);
      given.set(field.key, where);
    }
  };
  if (yaml) take(parseYaml(yaml), yamlKey, yaml.file);
  take(flags, (key) => key, "flags");
  for (const { key, fallback, help } of recipeFields) {
    if (optional.includes(key)) recipe[key] ??= "";
    if (fallback === undefined && recipe[key] === undefined)
      fail("recipe", `${yamlKey(key)}: expected ${help}, got nothing`, key);
  }
  const whole = recipe as unknown as TrainRecipe;
  if (whole.full && !given.has("dtype")) whole.dtype = "float32";
  checkTogether(whole, given);
  return whole;
}

function parseYaml({ text, file }: { text: string; file: string }): Record<string, unknown> {
  const document = parseDocument(text);
  const error = document.errors[0];
  if (error) fail(file, error.message);
  const value: unknown = document.toJS();
  if (value === null) return {};
  if (typeof value === "object" && !Array.isArray(value)) return value as Record<string, unknown>;
  return fail(file, "expected keys and values");
}

function checked(field: RecipeField, value: unknown, where: string): unknown {
  if (value === null && field.fallback === null) return null;
  const read = field.check.read(value);
  if (read !== undefined) return read;
  return fail(
    where,
    `${yamlKey(field.key)}: expected ${field.check.expected}, got ${JSON.stringify(value)}`,
    field.key,
  );
}

function unknownKey(name: string, spell: (key: string) => string, where: string): never {
  const nearest = recipeFields
    .map(({ key }) => spell(key))
    .map((known) => ({ known, distance: editDistance(name.toLowerCase().replaceAll("-", "_"), known) }))
    .reduce((a, b) => (b.distance < a.distance ? b : a));
  const hint = nearest.distance <= Math.max(2, name.length / 3) ? `; did you mean ${nearest.known}?` : "";
  return fail(where, `unknown key ${name}${hint}`);
}

/** Levenshtein's. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (const [i, letter] of [...a].entries()) {
    const next = [i + 1];
    for (const [j, other] of [...b].entries()) {
      next.push(Math.min(next[j]! + 1, row[j + 1]! + 1, row[j]! + Number(letter !== other)));
    }
    row = next;
  }
  return row[b.length]!;
}

function checkTogether(recipe: TrainRecipe, given: ReadonlyMap<string, string>): void {
  const where = (key: string) => given.get(key) ?? "recipe";
  if (given.has("steps") && given.get("steps") === given.get("epochs") && recipe.steps !== null) {
    fail(where("steps"), "steps, epochs: expected one of the two, got both", "steps");
  }
  if (recipe.full && recipe.bits !== 16)
    fail(where("full"), "full: expected bits 16, got bits 4 (frozen weights cannot be trained)", "full");
  if (recipe.full && recipe.initAdapter !== null)
    fail(where("initAdapter"), "init_adapter: expected none with full", "initAdapter");
  if (recipe.full && recipe.saveEpochs > 0)
    fail(where("saveEpochs"), "save_epochs: expected 0 with full: checkpoints are adapters", "saveEpochs");
  if (recipe.warmup >= 1 && !Number.isInteger(recipe.warmup)) {
    fail(where("warmup"), `warmup: expected whole steps or a part below 1, got ${recipe.warmup}`, "warmup");
  }
  if (recipe.trainOnSource && recipe.trainTurns !== "all") {
    fail(where("trainTurns"), `train_turns: expected all with train_on_source, got ${recipe.trainTurns}`, "trainTurns");
  }
  if (recipe.steps !== null && recipe.warmup > recipe.steps) {
    fail(
      where("warmup"),
      `warmup: expected at most the ${recipe.steps} steps of the run, got ${recipe.warmup}`,
      "warmup",
    );
  }
}

/** The steps of a run, and of its warm-up, once the number of steps in an epoch is known. */
export function stepsOf(
  recipe: Pick<TrainRecipe, "steps" | "epochs" | "warmup">,
  stepsPerEpoch: number,
): { steps: number; warmupSteps: number } {
  const steps = recipe.steps ?? Math.max(1, Math.ceil(recipe.epochs * stepsPerEpoch));
  const warmupSteps = recipe.warmup < 1 ? Math.ceil(recipe.warmup * steps) : recipe.warmup;
  return { steps, warmupSteps };
}

/** recipe.yaml that parses to the same recipe; it is kept beside what it made. */
export function printRecipe(recipe: TrainRecipe): string {
  const keys = recipeFields.map(({ key }) => key).filter((key) => !(key === "epochs" && recipe.steps !== null));
  return stringify(Object.fromEntries(keys.map((key) => [yamlKey(key), recipe[key]])));
}

/** The recipe with folders of this machine where it may name repositories of the Hub. */
export async function withFolders(
  recipe: TrainRecipe,
  folderOf: (text: string, what: "model" | "adapter") => Promise<string>,
): Promise<TrainRecipe> {
  const { model, initAdapter } = recipe;
  const adapter = initAdapter === null ? null : await folderOf(initAdapter, "adapter");
  return { ...recipe, model: await folderOf(model, "model"), initAdapter: adapter };
}
