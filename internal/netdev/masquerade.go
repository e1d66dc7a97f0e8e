package netdev

import "github.com/polder-net/polder/internal/desired"

func (k *Kernel) syncMasquerade(want desired.Masquerade) ([]Change, error) { return nil, nil }
