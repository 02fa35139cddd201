// The pretraining corpus of the quickstart's base model: an endless, seeded stream of short documents in plain English.
// It holds no questions with answers and no instructions: those are left for fine-tuning. It does not know the tokenizer.
import { animalText, calendarText, listText, numberText, register, townspeopleText, wordText } from "./corpus/facts.ts";
import { cards, echo, handover, inventory, retold, smallTalk, story } from "./corpus/scenes.ts";
import { Random } from "./random.ts";

interface Kind {
  name: string;
  /** How many of 100 documents are of this kind. */
  share: number;
  write: (random: Random) => string;
}

export const kinds: readonly Kind[] = [
  { name: "inventory", share: 6, write: inventory },
  { name: "retold", share: 3, write: retold },
  { name: "echo", share: 2, write: echo },
  { name: "cards", share: 3, write: cards },
  { name: "story", share: 6, write: story },
  { name: "handover", share: 3, write: handover },
  { name: "small talk", share: 3, write: smallTalk },
  { name: "townspeople", share: 40, write: townspeopleText },
  { name: "register", share: 8, write: register },
  { name: "animals", share: 6, write: animalText },
  { name: "words", share: 12, write: wordText },
  { name: "numbers", share: 1, write: numberText },
  { name: "calendar", share: 4, write: calendarText },
  { name: "lists", share: 3, write: listText },
];

/** Documents without end; the same seed gives the same documents. */
export function* documents(seed: number): Generator<string, never> {
  const random = new Random(seed);
  for (;;) {
    let ticket = random.below(100);
    const kind = kinds.find(({ share }) => {
      ticket -= share;
      return ticket < 0;
    });
    yield kind!.write(random);
  }
}
