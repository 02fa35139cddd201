// Corpus documents about what never changes: the townspeople, animals, words, numbers and the calendar. Each fact is told in many
// wordings and orders, which is what lets a small model find it from any side. No questions and no answers here.
import type { Random } from "../random.ts";
import {
  animals,
  capital,
  days,
  groups,
  joined,
  months,
  numbers,
  opposites,
  pasts,
  plurals,
  type Townsperson,
  townspeople,
  withArticle,
} from "../world.ts";

function tellTownsperson(random: Random, person: Townsperson): string[] {
  const { name, job, street, pet, food, hobby, month } = person;
  return random.shuffle([
    random.pick([
      `${name} is the ${job} of Bramblewick.`,
      `The ${job} of Bramblewick is ${name}.`,
      `${name} works as ${withArticle(job)}.`,
    ]),
    random.pick([`The home of ${name} is in ${street}.`, `${name} lives in ${street}.`, `In ${street} lives ${name}.`]),
    random.pick([
      `The pet of ${name} is ${withArticle(pet)}.`,
      `${name} has ${withArticle(pet)} as a pet.`,
      `${name} keeps ${withArticle(pet)}.`,
    ]),
    random.pick([
      `${name} likes to eat ${food}.`,
      `The favourite food of ${name} is ${food}.`,
      `For ${name} the best food is ${food}.`,
    ]),
    random.pick([
      `The hobby of ${name} is ${hobby}.`,
      `In the evening ${name} enjoys ${hobby}.`,
      `${name} is fond of ${hobby}.`,
    ]),
    random.pick([
      `${name} was born in ${month}.`,
      `The birthday of ${name} is in ${month}.`,
      `In ${month} comes the birthday of ${name}.`,
    ]),
  ]);
}

/** Some people of Bramblewick, with some of their facts in any order. */
export function townspeopleText(random: Random): string {
  return random
    .sample(townspeople, random.between(1, 3))
    .map((person) => tellTownsperson(random, person).slice(0, random.between(2, 6)).join(" "))
    .join(random.chance(50) ? "\n" : " ");
}

/** The same facts as a register of fields, which begin with the bare words. */
export function register(random: Random): string {
  return random
    .sample(townspeople, random.between(1, 3))
    .map((p) => {
      const fields = [
        `job=${p.job}`,
        `street=${p.street}`,
        `pet=${p.pet}`,
        `food=${p.food}`,
        `hobby=${p.hobby}`,
        `born=${p.month}`,
      ];
      return [`name=${p.name}`, ...random.shuffle(fields)].join("\n");
    })
    .join("\n\n");
}

export function animalText(random: Random): string {
  const lines = random.sample(animals, random.between(1, 3)).map((animal) => {
    const { name, sound, food, home, young, legs } = animal;
    const facts = random.shuffle([
      `The ${name} ${sound}.`,
      random.pick([`The ${name} eats ${food}.`, `The food of the ${name} is ${food}.`]),
      random.pick([`The home of the ${name} is the ${home}.`, `The ${name} lives in the ${home}.`]),
      random.pick([`A young ${name} is called ${withArticle(young)}.`, `The ${young} is the young of the ${name}.`]),
      `The ${name} has ${numbers[legs]} legs.`,
      `The sound of the ${name}: it ${sound}.`,
    ]);
    return facts.slice(0, random.between(2, 6)).join(" ");
  });
  return lines.join(" ");
}

export function wordText(random: Random): string {
  const lines = Array.from({ length: random.between(3, 8) }, () => {
    const kind = random.below(4);
    if (kind === 0) {
      const [one, many] = random.pick(plurals);
      return random.pick([
        `One ${one}, two ${many}.`,
        `The plural of ${one} is ${many}.`,
        `Many ${many}, one ${one}.`,
        `${one}: ${many}`,
      ]);
    }
    if (kind === 1) {
      const [now, then] = random.pick(pasts);
      return random.pick([
        `Today they ${now}, yesterday they ${then}.`,
        `The past of ${now} is ${then}.`,
        `${now}: ${then}`,
      ]);
    }
    const [a, b] = random.pick(opposites);
    const [one, other] = random.chance(50) ? [a, b] : [b, a];
    return random.pick([
      `The opposite of ${one} is ${other}.`,
      `Not ${one} but ${other}.`,
      `What is not ${one} is ${other}.`,
      `${one} and ${other}`,
      `${one}: ${other}`,
    ]);
  });
  return lines.join(random.chance(50) ? "\n" : " ");
}

export function numberText(random: Random): string {
  const lines = Array.from({ length: random.between(3, 7) }, () => {
    const a = random.below(11);
    const b = random.below(11);
    const [x, y, sum] = [numbers[a]!, numbers[b]!, numbers[a + b]!];
    return random.pick([
      `${capital(x)} and ${y} make ${sum}.`,
      `${capital(x)} plus ${y} is ${sum}.`,
      `${capital(sum)} minus ${x} is ${y}.`,
      a === b
        ? `${capital(x)} is as many as ${y}.`
        : `${capital(numbers[Math.max(a, b)]!)} is more than ${numbers[Math.min(a, b)]}.`,
      `After ${numbers[a + 1]} comes ${numbers[a + 2]}.`,
      `${x}+${y}=${sum}`,
    ]);
  });
  return lines.join(random.chance(50) ? "\n" : " ");
}

export function calendarText(random: Random): string {
  const lines = Array.from({ length: random.between(3, 6) }, () => {
    const cycle = random.chance(50) ? days : months;
    const i = random.below(cycle.length);
    const [before, now, after] = [0, 1, 2].map((step) => cycle[(i + step) % cycle.length]) as [string, string, string];
    return random.pick([
      `After ${now} comes ${after}.`,
      `Before ${now} comes ${before}.`,
      `${now} lies between ${before} and ${after}.`,
      `${before}, ${now}, ${after}.`,
      `${before}\n${now}\n${after}`,
    ]);
  });
  return lines.join(" ");
}

/** A list and what can be said of it: its order, its ends, its length, the same list backwards. */
export function listText(random: Random): string {
  const kind = random.pick(Object.keys(groups) as (keyof typeof groups)[]);
  const items = random.sample(groups[kind], random.between(2, 5));
  const backwards = [...items].reverse();
  const [first, last] = [items[0]!, items.at(-1)!];
  const facts = random.shuffle([
    `The first is ${first}.`,
    `The last is ${last}.`,
    `There are ${numbers[items.length]} of them.`,
    `After ${first} comes ${items[1]}.`,
    `Before ${last} comes ${items.at(-2)}.`,
  ]);
  const opening = random.pick([
    `${capital(kind)}: ${items.join(", ")}.`,
    `Here are ${kind}: ${joined(items)}.`,
    items.join("\n"),
  ]);
  const reversal = random.pick([
    `Backwards: ${backwards.join(", ")}.`,
    `From the last to the first: ${backwards.join(", ")}.`,
    `Backwards:\n${backwards.join("\n")}`,
    `Again: ${items.join(", ")}.`,
  ]);
  return [opening, ...facts.slice(0, random.between(1, 4)), reversal].join("\n");
}
