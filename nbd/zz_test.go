package nbd
import ("testing";"net";"os/exec";"os";"time";"fmt";"path/filepath";"syscall")
func TestZZ(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "k")
	cmd := exec.Command("nbdkit", "-f", "-U", sock, "memory", "256M")
	if err := cmd.Start(); err != nil { t.Fatal(err) }
	defer func(){ cmd.Process.Kill(); cmd.Wait() }()
	eventually(t, "sock", func() bool { _, err := os.Stat(sock); return err == nil })
	a, _ := net.ResolveUnixAddr("unix", sock)
	d := newMemory(1<<20, 0); defer closeDevice(t, d)
	d4 := newMemory(1<<20, 4); defer closeDevice(t, d4)
	bs := map[string]*bench{"nbdkit": {t: t, addr: a}, "rsio": serve(t, one(d), Options{}), "rsio-w4": serve(t, one(d4), Options{})}
	for _, cmdn := range []uint16{cmdRead, cmdWrite} {
	for _, depth := range []int{1, 32} {
	for r := 0; r < 3; r++ {
	for _, n := range []string{"nbdkit", "rsio", "rsio-w4"} {
		p := bs[n].login(simple); p.deadline(60*time.Second)
		c := newClient(p, cmdn, 4096, depth)
		t0 := time.Now(); u0 := cpu(syscall.RUSAGE_SELF); k0 := procCPU(cmd.Process.Pid)
		k := 0
		for time.Since(t0) < 1500*time.Millisecond { if err := c.round(); err != nil { t.Fatal(err) }; k += depth }
		el := time.Since(t0); u := cpu(syscall.RUSAGE_SELF)-u0 + procCPU(cmd.Process.Pid)-k0
		fmt.Printf("cmd=%d depth=%d %-8s %8.0f ops/s  both ends' CPU %5.2f us/op\n", cmdn, depth, n, float64(k)/el.Seconds(), float64(u.Microseconds())/float64(k))
		p.Close()
	}}}}
}
