package configs

import "strings"

// didYouMean is a phrase that names the nearest known word, or nothing if none is near.
func didYouMean(word string, known []string) string {
	if near := nearest(word, known); near != "" {
		return " (did you mean " + near + "?)"
	}
	return ""
}

// nearest is the known word that a slip of the fingers separates from word: at most
// one edit in four characters, and two at least in longer ones. It is empty if there is none.
func nearest(word string, known []string) string {
	best, bestDistance := "", max(len(word)/4, min(2, len(word)/2))+1
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}

// distance counts the insertions, deletions and replacements from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

func orList(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}
