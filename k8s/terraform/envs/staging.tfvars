# As prod, only smaller: what fails over in prod fails over here.
project_id  = "example-strongroom-staging"
environment = "staging"
region      = "europe-west4"
bucket_name = "example-strongroom-staging-artifacts"

authorized_networks = {
  office = "203.0.113.0/29"
}

release_channel = "REGULAR"

general_pool = {
  machine_type = "e2-standard-8"
  min_nodes    = 1
  max_nodes    = 3
}

gpu_pools = {
  l4 = {
    machine_type      = "g2-standard-16"
    accelerator_type  = "nvidia-l4"
    accelerator_count = 1
    local_ssd_count   = 1
    min_nodes         = 0
    max_nodes         = 3
  }

  a100-slices = {
    machine_type      = "a2-highgpu-1g"
    accelerator_type  = "nvidia-tesla-a100"
    accelerator_count = 1
    mig_partition     = "1g.5gb"
    spot              = true
    min_nodes         = 0
    max_nodes         = 1
  }
}

database = {
  tier             = "db-custom-4-16384"
  highly_available = true
  disk_size_gb     = 50
  backups_kept     = 14
}

cache = {
  memory_size_gb   = 2
  highly_available = true
}
