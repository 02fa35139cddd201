// The quickstart's instruction set: questions in the chat format, which the base model has never seen, about what it has: facts told in
// the question itself, and facts of the closed world. Held-out questions use pairs, people and words that no training question uses.
import { makeScene, type PairFilter, tellOwner, tellPlace } from "./corpus/scene.ts";
import { Random } from "./random.ts";
import {
  animals,
  days,
  groups,
  months,
  names,
  numbers,
  opposites,
  pasts,
  plurals,
  things,
  townspeople,
} from "./world.ts";

export type Split = "train" | "heldout";

export interface Row {
  messages: [{ role: "user"; content: string }, { role: "assistant"; content: string }];
}

export interface Question {
  task: string;
  /** What decides the split: no subject is in both. */
  subject: string;
  question: string;
  answer: string;
}

/** One of every five subjects is held out. */
const heldOutModulus = 5;

const splitOf = (index: number): Split => (index % heldOutModulus === 0 ? "heldout" : "train");

/** Owner and thing, split so that each name and each thing is in both sets but no pair is. */
const pairFilter =
  (split: Split): PairFilter =>
  (name, thing) =>
    splitOf(names.indexOf(name) + things.indexOf(thing)) === split;

const ofSplit = <T>(items: readonly T[], split: Split): T[] => items.filter((_, index) => splitOf(index) === split);

function sceneQuestion(random: Random, split: Split): Question {
  const scene = makeScene(random, random.between(2, 3), pairFilter(split));
  const asked = random.pick(scene);
  const { name, thing, colour, place } = asked;
  const tellPlaces = random.chance(60);
  const told = random
    .shuffle(scene)
    .map((b) => (tellPlaces ? `${tellOwner(random, b)} ${tellPlace(random, b)}` : tellOwner(random, b)))
    .join(" ");
  const kinds: [string, string[], string][] = [
    ["colour", [`What colour is the ${thing}?`, `Which colour has the ${thing} of ${name}?`], colour],
    ["thing", [`What does ${name} have?`, `What belongs to ${name}?`], `${colour} ${thing}`],
    ["owner", [`Who has the ${thing}?`, `Whose is the ${colour} thing?`], name],
    ["json", [`Write what ${name} has as JSON.`], JSON.stringify({ owner: name, thing, colour })],
  ];
  if (tellPlaces) kinds.push(["place", [`Where is the ${thing}?`, `Where is the thing of ${name}?`], place]);
  const [task, wordings, answer] = random.pick(kinds);
  const subject = scene.map((b) => `${b.name}/${b.thing}`).join(" ");
  return { task, subject, question: `${told}\n${random.pick(wordings)}`, answer };
}

function townQuestion(random: Random, split: Split): Question {
  const person = random.pick(ofSplit(townspeople, split));
  const { name } = person;
  const [question, answer] = random.pick<[string, string]>([
    [`What is the job of ${name}?`, person.job],
    [`Where does ${name} live?`, person.street],
    [`Which pet has ${name}?`, person.pet],
    [`What does ${name} like to eat?`, person.food],
    [`What is the hobby of ${name}?`, person.hobby],
    [`In which month was ${name} born?`, person.month],
    [`Who is the ${person.job} of Bramblewick?`, name],
  ]);
  return { task: "town", subject: name, question, answer };
}

function animalQuestion(random: Random, split: Split): Question {
  const animal = random.pick(ofSplit(animals, split));
  const { name } = animal;
  const [question, answer] = random.pick<[string, string]>([
    [`What does the ${name} eat?`, animal.food],
    [`Where does the ${name} live?`, animal.home],
    [`What is a young ${name} called?`, animal.young],
    [`How many legs has the ${name}?`, numbers[animal.legs]!],
  ]);
  return { task: "animal", subject: name, question, answer };
}

function wordQuestion(random: Random, split: Split): Question {
  const kind = random.below(3);
  if (kind === 0) {
    const [one, many] = random.pick(ofSplit(plurals, split));
    return { task: "plural", subject: one, question: `What is the plural of ${one}?`, answer: many };
  }
  if (kind === 1) {
    const [now, then] = random.pick(ofSplit(pasts, split));
    return { task: "past", subject: now, question: `What is the past of ${now}?`, answer: then };
  }
  const pair = random.pick(ofSplit(opposites, split));
  const [word, answer] = random.chance(50) ? pair : [pair[1], pair[0]];
  return { task: "opposite", subject: pair[0], question: `What is the opposite of ${word}?`, answer };
}

function calendarQuestion(random: Random, split: Split): Question {
  const cycle = random.pick([days, months]);
  const now = random.pick(ofSplit(cycle, split));
  const step = random.pick([1, -1]);
  const answer = cycle.at((cycle.indexOf(now) + step) % cycle.length)!;
  return { task: "calendar", subject: now, question: `What comes ${step > 0 ? "after" : "before"} ${now}?`, answer };
}

function listQuestion(random: Random, split: Split): Question {
  const kind = random.pick(Object.keys(groups) as (keyof typeof groups)[]);
  const length = random.between(3, 5);
  let items: string[];
  do items = random.sample<string>(groups[kind], length);
  while (
    splitOf(
      (groups[kind] as readonly string[]).indexOf(items[0]!) + (groups[kind] as readonly string[]).indexOf(items[1]!),
    ) !== split
  );
  const list = items.join(", ");
  const [question, answer] = random.pick<[string, string]>([
    [`Put this list backwards: ${list}.`, [...items].reverse().join(", ")],
    [`Which is the first of these: ${list}?`, items[0]!],
    [`Which is the last of these: ${list}?`, items.at(-1)!],
    [`How many are these: ${list}?`, numbers[length]!],
    [`Write this list as JSON: ${list}.`, JSON.stringify(items)],
  ]);
  return { task: "list", subject: `${items[0]}, ${items[1]}`, question, answer };
}

/** Each task and how many of 100 questions are its own. */
const tasks: readonly [share: number, ask: (random: Random, split: Split) => Question][] = [
  [50, sceneQuestion],
  [22, townQuestion],
  [4, animalQuestion],
  [6, wordQuestion],
  [2, calendarQuestion],
  [16, listQuestion],
];

/** `count` different questions of a split; the same seed gives the same ones. */
export function makeQuestions(seed: number, split: Split, count: number): Question[] {
  const random = new Random(seed);
  const out = new Map<string, Question>();
  while (out.size < count) {
    let ticket = random.below(100);
    const [, ask] = tasks.find(([share]) => {
      ticket -= share;
      return ticket < 0;
    })!;
    const question = ask(random, split);
    out.set(question.question, question);
  }
  return [...out.values()];
}

export const asRow = ({ question, answer }: Question): Row => ({
  messages: [
    { role: "user", content: question },
    { role: "assistant", content: answer },
  ],
});
