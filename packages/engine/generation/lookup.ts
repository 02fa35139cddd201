// Guesses of the next tokens, by looking up the last ones earlier in the text (prompt look-up decoding, Saxena 2023; the
// assisted generation of transformers). A guess is only computed earlier, never believed: see Scheduler.

/** Lengths of the ends that are looked up, longest first: shorter ones are found everywhere and say little. */
const endLengths = [4, 3, 2];

/** At most `max` tokens that followed the last place with the same end; [] where there is none. */
export function lookUp(ids: readonly number[], max: number): number[] {
  if (max <= 0) return [];
  for (const length of endLengths) {
    const begin = ids.length - length;
    for (let at = begin - 1; at >= 0; at--) {
      let same = 0;
      while (same < length && ids[at + same] === ids[begin + same]) same++;
      if (same === length) return ids.slice(at + length, at + length + max);
    }
  }
  return [];
}
