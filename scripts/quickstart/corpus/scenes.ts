// Corpus documents about scenes that are new each time: what is told first must be read again to know how the document goes on.
// This is what teaches the model to look things up in its own context. No questions and no answers here.
import type { Random } from "../random.ts";
import { capital, colours, feelings, joined, names, places, things, withArticle } from "../world.ts";
import { type Belonging, makeScene, note, retell, tellOwner, tellPlace } from "./scene.ts";

/** A few facts, then the same facts in other words and another order. */
export function inventory(random: Random): string {
  const scene = makeScene(random, random.between(2, 4));
  const placesToo = random.chance(55);
  const told: string[] = [];
  for (const belonging of random.shuffle(scene)) {
    told.push(tellOwner(random, belonging));
    if (placesToo) told.push(tellPlace(random, belonging));
  }
  const again = Array.from({ length: random.between(4, 9) }, () => retell(random, random.pick(scene), placesToo));
  const parts = [told.join(" "), again.join(" ")];
  if (random.chance(40)) parts.push(note(random, random.pick(scene), placesToo));
  return parts.join(random.chance(50) ? "\n" : " ").replace(/ (?=owner=|thing=|colour=|place=)/, "\n");
}

/** Words in a row with no sense, then the same row again: the plainest lesson in looking back. */
export function echo(random: Random): string {
  const pool = [names, things, colours, places].filter(() => random.chance(60)).flat();
  const row = random.sample(pool.length > 0 ? pool : things, random.between(4, 12));
  const separator = random.pick([" ", ", ", "\n", " and "]);
  return Array.from({ length: random.between(2, 3) }, () => row.join(separator)).join(
    random.pick([". Again: ", "\n", ". "]),
  );
}

/** The sentences of a scene, then the same sentences in another order. */
export function retold(random: Random): string {
  const placesToo = random.chance(50);
  const told = makeScene(random, random.between(2, 4)).flatMap((belonging) =>
    placesToo ? [tellOwner(random, belonging), tellPlace(random, belonging)] : [tellOwner(random, belonging)],
  );
  return `${told.join(" ")}${random.pick([" Once more: ", "\n", " "])}${random.shuffle(told).join(" ")}`;
}

/** Facts as notes, and the same facts as sentences: one into the other, either way round. */
export function cards(random: Random): string {
  const scene = makeScene(random, random.between(1, 3));
  const placesToo = random.chance(50);
  return scene
    .map((belonging) => {
      const sentences = [tellOwner(random, belonging)];
      if (placesToo) sentences.push(tellPlace(random, belonging));
      const card = note(random, belonging, placesToo);
      return random.chance(60) ? `${sentences.join(" ")}\n${card}` : `${card}\n${sentences.join(" ")}`;
    })
    .join("\n");
}

/** A thing goes from hand to hand; the text keeps saying who has it now. */
export function handover(random: Random): string {
  const people = random.sample(names, random.between(3, 4));
  const [thing, other] = random.sample(things, 2) as [string, string];
  const colour = random.pick(colours);
  let holder = people[0]!;
  const lines = [`${holder} has ${withArticle(`${colour} ${thing}`)}. ${people[1]} has ${withArticle(other)}.`];
  for (let i = random.between(1, 4); i > 0; i--) {
    const next = random.pick(people.filter((p) => p !== holder));
    const verb = random.pick(["gave", "sold", "passed", "handed"]);
    lines.push(`${random.pick(["Then", "Later", "After that,", "Soon"])} ${holder} ${verb} the ${thing} to ${next}.`);
    holder = next;
    if (random.chance(50)) lines.push(`Now ${holder} has the ${thing}.`);
  }
  lines.push(
    random.pick([
      `In the end ${holder} has the ${thing}.`,
      `Now the ${thing} is with ${holder}, and the ${other} is with ${people[1]}.`,
      `So the ${colour} ${thing} belongs to ${holder}.`,
    ]),
  );
  return lines.join(" ");
}

function walk(random: Random, hero: Belonging): string[] {
  const [first, second] = random.sample(places, 2) as [string, string];
  return [
    `${random.pick(["In the morning", "One day", "On that day", "After lunch"])} ${hero.name} went to the ${first} with the ${hero.thing}.`,
    `From the ${first} ${hero.name} went to the ${second}.`,
    `${hero.name} left the ${hero.thing} in the ${second}.`,
    random.pick([
      `Later the ${hero.thing} was still in the ${second}.`,
      `So the ${hero.colour} ${hero.thing} stayed in the ${second}, and ${hero.name} went back to the ${first}.`,
      `The ${hero.thing} is in the ${second} now.`,
    ]),
  ];
}

function meeting(random: Random, hero: Belonging, friend: Belonging): string[] {
  const [mood, otherMood] = random.sample(feelings, 2) as [string, string];
  return [
    `In the ${friend.place} ${hero.name} met ${friend.name}, who had ${withArticle(`${friend.colour} ${friend.thing}`)}.`,
    `${hero.name} was ${mood}, but ${friend.name} was ${otherMood}.`,
    random.pick([
      `"My ${friend.thing} is ${friend.colour}," said ${friend.name}. "Mine is ${hero.colour}," said ${hero.name}.`,
      `"${capital(hero.name)}, is the ${hero.colour} ${hero.thing} yours?" said ${friend.name}. "Yes," said ${hero.name}.`,
      `"I like your ${hero.thing}, ${hero.name}," said ${friend.name}. "And I like your ${friend.thing}," said ${hero.name}.`,
    ]),
    `${friend.name} was ${otherMood} because the ${friend.thing} was ${random.pick(["new", "old", "lost", "broken", "clean"])}.`,
  ];
}

/** A short story with one or two people and their things. */
export function story(random: Random): string {
  const [hero, friend] = makeScene(random, 2) as [Belonging, Belonging];
  const lines = [
    random.pick([
      `${hero.name} had ${withArticle(`${hero.colour} ${hero.thing}`)}.`,
      `Once there was a child named ${hero.name}, who had ${withArticle(`${hero.colour} ${hero.thing}`)}.`,
      `${hero.name} lived near the ${hero.place} and loved a ${hero.colour} ${hero.thing}.`,
    ]),
  ];
  if (random.chance(70)) lines.push(...walk(random, hero));
  if (random.chance(60)) lines.push(...meeting(random, hero, friend));
  if (lines.length === 1) lines.push(`${hero.name} kept the ${hero.thing} in the ${hero.place}.`);
  lines.push(
    random.pick([
      `At night ${hero.name} dreamed of the ${hero.colour} ${hero.thing}.`,
      `The ${hero.thing} of ${hero.name} was ${hero.colour}.`,
      `That was a good day for ${hero.name}.`,
    ]),
  );
  return lines.join(" ");
}

/** Small talk between two speakers, with the turn markers of the chat template but nothing asked that has an answer. */
export function smallTalk(random: Random): string {
  const [me, you] = random.sample(names, 2) as [string, string];
  const [mood, otherMood] = random.sample(feelings, 2) as [string, string];
  const place = random.pick(places);
  const mine = withArticle(`${random.pick(colours)} ${random.pick(things)}`);
  const turns = random.sample(
    [
      [`I am ${mood} today.`, `I am ${otherMood}, and now I know that you are ${mood}.`],
      [`I am going to the ${place}.`, `Then we meet in the ${place}.`],
      [`I have ${mine}.`, `I like ${mine}.`],
      [`My friends are ${joined(random.sample(names, 2))}.`, "I know them well."],
      ["It was a long day.", `Yes, ${me}, it was.`],
    ],
    random.between(1, 3),
  );
  const opening = [
    `${random.pick(["Hello", "Good morning", "Good evening"])}, I am ${me}.`,
    `Hello ${me}, my name is ${you}.`,
  ];
  const closing = [`Goodbye, ${you}.`, `Goodbye, ${me}.`];
  return [opening, ...turns, closing].map(([a, b]) => `<|user|>${a}<|assistant|>${b}`).join("");
}
