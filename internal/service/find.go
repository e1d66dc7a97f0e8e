package service

// Self is what SetSelf told last.
func (t *Table) Self() Self { return t.self }

// Find returns the port that has a frontend, and the kind of it; nil: nobody has.
func (t *Table) Find(f Frontend) (*Port, Kind) {
	if c, ok := t.frontends.owners[f]; ok {
		if p := t.ports[c.name(f)]; p != nil {
			if kind, has := p.Frontends[f]; has {
				return p, kind
			}
		}
	}
	for _, pod := range t.hosts.ports[f.hostKey()] {
		if p := t.ports[pod.name()]; pod.Frontend == f && p != nil {
			return p, HostPort
		}
	}
	return nil, 0
}
