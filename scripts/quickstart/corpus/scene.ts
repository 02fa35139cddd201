// A scene: some people, what each owns, its colour and where it lies, and the sentences that tell it. The corpus retells scenes in
// its own words; the instruction set asks about them. It does not know which scenes are told.
import type { Random } from "../random.ts";
import { colours, names, places, things, withArticle } from "../world.ts";

export interface Belonging {
  name: string;
  thing: string;
  colour: string;
  place: string;
}

/** Which owners may go with which things; it lets the instruction set keep some pairs for its held-out questions. */
export type PairFilter = (name: string, thing: string) => boolean;

/** `count` belongings in which no name, thing, colour or place comes twice, so that every question has one answer. */
export function makeScene(random: Random, count: number, mayOwn: PairFilter = () => true): Belonging[] {
  const sceneNames = random.sample(names, count);
  const sceneThings: string[] = [];
  for (const name of sceneNames) {
    sceneThings.push(random.pick(things.filter((thing) => mayOwn(name, thing) && !sceneThings.includes(thing))));
  }
  const sceneColours = random.sample(colours, count);
  const scenePlaces = random.sample(places, count);
  return sceneNames.map((name, i) => ({
    name,
    thing: sceneThings[i]!,
    colour: sceneColours[i]!,
    place: scenePlaces[i]!,
  }));
}

/** One sentence that says who owns what, and its colour. */
export function tellOwner(random: Random, { name, thing, colour }: Belonging): string {
  const thingWithColour = `${colour} ${thing}`;
  return random.pick([
    `${name} has ${withArticle(thingWithColour)}.`,
    `${name} owns ${withArticle(thingWithColour)}.`,
    `${name} bought ${withArticle(thingWithColour)}.`,
    `The ${thingWithColour} belongs to ${name}.`,
    `The ${thingWithColour} is for ${name}.`,
  ]);
}

/** One sentence that says where the thing is. */
export function tellPlace(random: Random, { name, thing, place }: Belonging): string {
  return random.pick([
    `${name} left the ${thing} in the ${place}.`,
    `The ${thing} is in the ${place}.`,
    `${name} put the ${thing} in the ${place}.`,
    `${name} keeps the ${thing} in the ${place}.`,
  ]);
}

/** One sentence that repeats a fact of the scene in other words: from the owner, from the thing, from the colour or from the place. */
export function retell(random: Random, { name, thing, colour, place }: Belonging, placesWereTold: boolean): string {
  const ownership = [
    `The ${thing} of ${name} is ${colour}.`,
    `The ${thing} is ${colour}.`,
    `The owner of the ${thing} is ${name}.`,
    `The ${colour} thing is the ${thing}.`,
    `The ${colour} thing belongs to ${name}.`,
    `The one with the ${thing} is ${name}.`,
    `What ${name} has is the ${thing}.`,
    `The colour that ${name} has is ${colour}.`,
  ];
  const place_ = [
    `In the ${place} lies the ${thing}.`,
    `The place of the ${thing} is the ${place}.`,
    `To find the ${thing}, go to the ${place}.`,
    `The thing in the ${place} belongs to ${name}.`,
    `The thing in the ${place} is ${colour}.`,
  ];
  return random.pick(placesWereTold && random.chance(45) ? place_ : ownership);
}

/** The same facts as a note of fields: it begins lines with the bare words, which running text does not. */
export function note(random: Random, { name, thing, colour, place }: Belonging, placesWereTold: boolean): string {
  const fields = [`owner=${name}`, `thing=${thing}`, `colour=${colour}`];
  if (placesWereTold) fields.push(`place=${place}`);
  return random.shuffle(fields).join("\n");
}
