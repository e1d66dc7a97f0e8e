package main

import (
	"slices"

	"github.com/polder-net/polder/internal/cluster"
	"github.com/polder-net/polder/internal/explain"
)

// explainedProblem is something that was left out or read in part, in `polder explain -o json`.
type explainedProblem struct {
	Folder  string `json:"folder,omitempty"` // of --diff: the only one of both that has it
	Object  string `json:"object"`           // "NetworkPolicy/default/web", or a manifest's file name
	Message string `json:"message"`
}

func reportProblems(problems []cluster.Problem) []explainedProblem {
	list := []explainedProblem{}
	for _, p := range problems {
		list = append(list, explainedProblem{"", p.Object, p.Message})
	}
	return list
}

// reportBoth reports what is wrong in two folders. What both have is there once, and of no folder.
func reportBoth(before, after objectsRead, oldFolder, newFolder string) []explainedProblem {
	list := []explainedProblem{}
	for _, p := range before.problems {
		folder := oldFolder
		if slices.Contains(after.problems, p) {
			folder = ""
		}
		list = append(list, explainedProblem{folder, p.Object, p.Message})
	}
	for _, p := range after.problems {
		if !slices.Contains(before.problems, p) {
			list = append(list, explainedProblem{newFolder, p.Object, p.Message})
		}
	}
	return list
}

// warn says on stderr what was left out or read in part.
func warn(e env, problems []explainedProblem) {
	for _, p := range problems {
		of := p.Object
		if p.Folder != "" {
			of = p.Folder + ": " + of
		}
		writeWrapped(e.stderr, "polder: left out or read in part: "+of+": "+p.Message, "", "  ")
	}
}

// objectsRead are a cluster's objects, and what of them cannot be read or honoured.
type objectsRead struct {
	*explain.Cluster
	problems []cluster.Problem
	leftOut  map[string]bool // objects of which there is more than what counts
}

// absent are the problems of what does not count at all: why there is no answer.
func (o objectsRead) absent() (list []cluster.Problem) {
	for _, p := range o.problems {
		if o.leftOut[p.Object] {
			list = append(list, p)
		}
	}
	return list
}

// concerning are the problems that may have to do with an answer.
func (o objectsRead) concerning(a explain.Answer) (list []cluster.Problem) {
	for _, p := range o.problems {
		if o.leftOut[p.Object] || o.Concerns(a, p.Object) {
			list = append(list, p)
		}
	}
	return list
}
