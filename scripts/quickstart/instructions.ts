// The quickstart's instruction set: questions in the chat format, which the base model has never seen, about what it has: facts told in
// the question itself, and facts of the closed world. Held-out questions use pairs, people and words that no training question uses.
import { Random } from "./random.ts";
import { animals, days, months, numbers, opposites, pasts, plurals, townspeople, withArticle } from "./world.ts";

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

const ofSplit = <T>(items: readonly T[], split: Split): T[] => items.filter((_, index) => splitOf(index) === split);

function townQuestion(random: Random, split: Split): Question {
  const person = random.pick(ofSplit(townspeople, split));
  const { name } = person;
  const [wordings, answer] = random.pick<[string[], string]>([
    [[`What is the job of ${name}?`, `What does ${name} work as?`], person.job],
    [[`Where does ${name} live?`, `In which street is the home of ${name}?`], person.street],
    [[`Which pet has ${name}?`, `What is the pet of ${name}?`], person.pet],
    [[`What does ${name} like to eat?`, `What is the favourite food of ${name}?`], person.food],
    [[`What is the hobby of ${name}?`, `What does ${name} enjoy in the evening?`], person.hobby],
    [[`In which month was ${name} born?`, `When is the birthday of ${name}?`], person.month],
    [[`Who is the ${person.job} of Bramblewick?`, `Who works as ${withArticle(person.job)}?`], name],
  ]);
  const question = random.pick(wordings);
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

/** Each task and how many of 100 questions are its own. */
const tasks: readonly [share: number, ask: (random: Random, split: Split) => Question][] = [
  [70, townQuestion],
  [10, animalQuestion],
  [14, wordQuestion],
  [6, calendarQuestion],
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
