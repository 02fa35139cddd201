// The eight data sets of the QLoRA paper (arXiv:2305.14314, table 5), and the cleaned Alpaca of its code, by name: the
// Hub repository that holds each, and the format of its rows.

export interface PaperSet {
  /** On the Hub. */
  repo: string;
  revision: string;
  format: string;
  /** Files that belong to the set; all data files of the split where it is missing. */
  files?: RegExp;
}

const main = { revision: "main" };
/** The Hub's own Parquet copy of a set that is made by a script. */
const converted = { revision: "refs/convert/parquet" };

export const paperSets: Readonly<Record<string, PaperSet>> = {
  // Whole dialogues with "### Human: " and "### Assistant: ", the best reply at each level; all of them is trained.
  oasst1: { ...main, repo: "timdettmers/openassistant-guanaco", format: "text" },
  // All but the red-team attempts, as its own loader does; the preferred dialogue is trained as a whole.
  "hh-rlhf": { ...main, repo: "Anthropic/hh-rlhf", format: "preference", files: /^(harmless|helpful)-[^/]*\// },
  alpaca: { ...main, repo: "tatsu-lab/alpaca", format: "alpaca" },
  "alpaca-clean": { ...main, repo: "yahma/alpaca-cleaned", format: "alpaca" },
  "self-instruct": {
    ...converted,
    repo: "yizhongw/self_instruct",
    format: "prompt-completion",
    files: /^self_instruct\//,
  },
  "unnatural-instructions": { ...main, repo: "mrm8488/unnatural-instructions-full", format: "instances" },
  // The paper's own sample of some 450,000 rows was not published, and the whole collection is over 100 GB: this is its
  // zero-shot chain-of-thought and Super-NaturalInstructions part.
  "flan-v2": { ...main, repo: "SirNeural/flan_v2", format: "flan", files: /^(cot|niv2)_zs_(no)?opt_train\./ },
  chip2: { ...main, repo: "laion/OIG", format: "chip2", files: /^unified_chip2\.jsonl$/ },
  longform: { ...main, repo: "akoksal/LongForm", format: "input-output" },
};
