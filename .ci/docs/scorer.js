// A heading that holds the words as they were typed comes before pages that hold them somewhere, those of the first page before all.
const typed = (new URLSearchParams(location.search).get('q') || '').trim().toLowerCase()
var Scorer = {
  score: ([page, title, anchor, description, score]) => score + (typed && title.toLowerCase().includes(typed) ? 50 + 50*(page === 'index') : 0),
  objNameMatch: 11, objPartialMatch: 6, objPrio: {0: 15, 1: 5, 2: -5}, objPrioDefault: 0, title: 15, partialTitle: 7, term: 5, partialTerm: 2, // as Sphinx has them
}
